//! Recovery as a method of a run: how it is asked for, planned, done and reported.

mod chart;
mod method;
mod report;
mod request;

pub(super) use chart::NAME as LOSSES;
pub use method::Recover;
pub use report::RecoverReport;
pub use request::{Extra, RecoverRequest};
