//! f64 twins on the CPU, for tests and for bisecting; never a fallback.
//!
//! Each kernel has a twin of the same name here, written from its formula. [`Network`] is the whole forward pass of any
//! architecture, dense, fused or sliced, one sequence at a time, and [`Network::sliced`] the whole of SliceGPT as the
//! paper has it, nothing batched; [`Network::refitted`] is slicing with one basis for several layers, and with weights
//! fitted again, [`Network::compressed`] what becomes of heads, channels and layers, [`Network::narrowed`] of the
//! width.

mod backward;
mod compressed;
mod delta_net;
mod experts;
mod forward;
mod kernels;
mod mixture;
mod narrowed;
mod scores;
mod shared;
mod slicing;
mod subset;

pub use backward::*;
pub use compressed::Left;
pub use delta_net::*;
pub use forward::{Affine, Layer, Network, Step, logits};
pub use kernels::*;
pub use mixture::*;
pub use scores::{bound, bound_backward, slopes};
pub use slicing::{Sliced, kept_energy, principal_axes};
pub use subset::{Reduced, restricted, subset};
