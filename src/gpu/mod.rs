//! The only place that knows wgpu: the device, matrices that live on it, and the dispatch of kernels.

mod adapter;
mod choices;
mod device;
mod element;
mod faults;
mod kernel;
mod matrix;
mod pending;
mod pool;
mod precision;
mod queue;
mod timestamps;
mod trace;

pub use adapter::{AdapterDescription, adapters, no_adapter};
pub use device::{Gpu, GpuOptions};
pub use element::ElementType;
pub use kernel::{Binding, Kernel, Need};
pub use matrix::{Matrix, Readback};
pub use pool::MemoryUse;
pub use precision::{MatrixUnits, Precision};
pub use timestamps::Span;
