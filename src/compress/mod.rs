//! The best smaller model for a size: what a cut removes is what costs least, on whichever axis that is.
//!
//! The dense model runs once, and what is needed of it is summed (`survey`); part of the tokens go back through it, too
//! (`sensitivity`). A few probes, each axis alone, are really cut and fitted on part of the tokens, and the KL
//! divergence from the dense model is measured on tokens that nothing is fitted to; that gives each axis a curve, and
//! the curves an allocation of the budget (`budget`). The best few candidates are cut, fitted and measured on all
//! tokens, and the best of them is the output (`driver`).
//!
//! Where layers may differ in size, a candidate is tried a second time with its channels, or heads, spread over the
//! layers by what they cost each (`layers`); the better of the two is kept.
//!
//! Cutting is one pass (`refit`): the dense model runs beside the smaller one, layer by layer; what reads the residual
//! stream is fitted to what it gave, what writes it to where the stream was, and the same sums say which heads and
//! channels cost least to leave out ([`crate::linalg::subset`]), by how much the predictions mind (`sensitivity`). Of
//! mixtures, the experts leave that add least, and what the others write is fitted one expert at a time (`mixture`).

mod axis;
mod budget;
mod curve;
mod cut;
mod dense;
mod driver;
mod estimate;
mod head;
mod job;
mod layers;
mod memory;
mod mixture;
mod plan;
mod ranking;
mod refit;
mod results;
mod search;
mod selection;
mod sensitivity;
mod snapshot;
mod survey;
mod watch;

pub use axis::{Axis, Goal};
pub use curve::{Curve, Curves};
pub use driver::{axes, guess};
pub use job::Job;
pub use memory::peak;
pub use plan::{Effort, Options, Plan, Width};
pub use ranking::Ranking;
pub use results::Refitted;
pub use selection::{plan_of_selection, refit_selection};
pub use sensitivity::{Sensing, Sensitivities, sensed_bytes, sensing_peak};
pub use snapshot::{Candidate, Probe, Snapshot};
