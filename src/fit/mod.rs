//! What methods share that move a model's residual stream into other coordinates and fit its weights again: sums over
//! tokens on the GPU, least squares and axes on the CPU, maps on the GPU.

mod axes;
mod covariance;
mod maps;
mod regression;
mod rotation;
mod tied;

pub use axes::{PointSums, axes, weighting};
pub use covariance::{Covariance, Signal, signal};
pub use maps::{Map, Writes, copied, project_write, write_target};
pub use regression::{Fit, Metric, Regression, System, TILE};
pub use rotation::Rotation;
pub use tied::{Factor, TOLERANCE, TiedAxes, least_tied_width, tied_axes};
