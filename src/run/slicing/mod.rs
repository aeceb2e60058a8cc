//! SliceGPT as a method of a run: how it is asked for, planned, done and reported.

mod method;
mod report;
mod request;

pub use method::Slice;
pub use report::{Alternative, LayerReport, SliceReport};
pub use request::SliceRequest;
