//! Linear algebra on the CPU in f64: matrices in, matrices out, no models.

mod eigh;
mod orthogonal;

pub use eigh::{Eigen, eigh};
pub use orthogonal::random_orthogonal;
