//! Linear algebra on the CPU in f64: matrices in, matrices out, no models.

mod eigh;
mod orthogonal;
mod solve;
mod subset;

pub use eigh::{Eigen, eigh};
pub use orthogonal::random_orthogonal;
pub use solve::solve_ridge;
pub use subset::{Group, Removal, Subset, subset, subset_and_next};
