//! Runs: what the command line does with a model, for whoever calls it from Rust.
//!
//! A [`Request`] says what is asked. [`Task::plan`] reads what is small and works out once what will be written;
//! [`Task::foresee`] says what that would take, [`Task::work`] does it, in stages that are committed one by one, so
//! that any of them can be resumed. Both return an [`Outcome`], of which [`Task::report`] makes one object for
//! programs, a table and a model card. What differs between methods is a [`Method`].
//!
//! Nothing here prints: a [`Log`] keeps times and warnings, and passes them on to a
//! [`Progress`](crate::progress::Progress), which shows them and may stop the work.

mod attempt;
mod calibration;
mod companions;
mod compressing;
mod device;
mod evaluation;
mod examples;
mod export;
mod inputs;
mod log;
pub mod memory;
mod method;
mod origin;
mod outcome;
mod own_writing;
mod paths;
mod pruning;
mod record;
mod recovering;
mod report;
mod request;
mod sizes;
mod slicing;
mod speed;
mod stages;
mod state;
mod task;
mod units;
mod verification;
mod vocabulary;

pub use calibration::{Calibration, CalibrationRequest, Extents, Sequences};
pub use companions::Companions;
pub use compressing::{Compress, CompressImportance, CompressReport, CompressRequest, CompressSnapshot};
pub use device::DeviceRequest;
pub use evaluation::{Evaluated, Evaluation, MeasuredOn};
pub use examples::LossOn;
pub use export::{ExportRequest, Exported, export, exported_beside};
pub use inputs::{
    Tokenizers, build_tokenizer, check_tokens, evaluation_rows, find_model, open_model, open_tokenizer, stop_tokens,
    writes_beside,
};
pub use log::Log;
pub use method::{Besides, Method, Row, Section};
pub use origin::Origin;
pub use outcome::{AgreementReport, CalibrationReport, Outcome, PerplexityReport};
pub use paths::{beside, name_of, stem_of};
pub use pruning::{Prune, PruneLayers, PruneRefit, PruneReport, PruneRequest, PruneSnapshot};
pub use record::{Agreement, FILE, Record, RunRecord};
pub use recovering::{Extra, Recover, RecoverReport, RecoverRequest};
pub use report::{Report, SCHEMA_VERSION};
pub use request::{HARMLESS, Request};
pub use slicing::{Alternative, LayerReport, Slice, SliceReport, SliceRequest};
pub use speed::SpeedReport;
pub use task::Task;
pub use units::{bytes, duration, grouped, percent_removed};
pub use verification::{Verified, verify};
pub use vocabulary::{VocabularyRequest, narrow};
