//! What methods share that move a model's residual stream into other coordinates and fit its weights again: sums over
//! tokens on the GPU, least squares and axes on the CPU, maps on the GPU.

mod axes;
mod covariance;
mod maps;
mod regression;
mod rotation;

pub use axes::{PointSums, TiedAxes, axes, tied_axes, weighting};
pub use covariance::{Covariance, Signal, signal};
pub use maps::{Map, Writes, copied, project_write};
pub use regression::{Fit, Metric, Regression, System, TILE};
pub use rotation::Rotation;
