//! The only place that knows wgpu: the device, matrices that live on it, and the dispatch of kernels.

mod device;
mod kernel;
mod matrix;

pub use device::{AdapterDescription, Gpu, GpuOptions, NO_ADAPTER, adapters};
pub use kernel::{Binding, Kernel};
pub use matrix::{ElementType, Matrix};
