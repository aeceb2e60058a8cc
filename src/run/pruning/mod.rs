//! Pruning as a method of a run: how it is asked for, planned, done and reported.

mod method;
mod report;
mod request;
mod snapshot;

pub use method::Prune;
pub use report::PruneReport;
pub use request::{PruneLayers, PruneRefit, PruneRequest};
pub use snapshot::PruneSnapshot;
