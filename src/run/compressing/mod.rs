//! Compression on every axis as a method of a run: how it is asked for, planned, done and reported.

mod chart;
mod method;
mod ranking;
mod recovery;
mod report;
mod request;

pub use method::Compress;
pub use recovery::CompressSnapshot;
pub use report::CompressReport;
pub use request::{CompressImportance, CompressRequest};
