//! Whether a model is what was written: its files, its tensors, and the logits that the record of a run has.

use super::{
    device::DeviceRequest,
    inputs::Tokenizers,
    log::Log,
    record::{Agreement, FILE, RunRecord},
};
use crate::{
    data::TokenizerFiles,
    error::{Error, Result},
    gpu::AdapterDescription,
    model::Model,
    progress::Progress,
};

/// What was found of a model that is whole.
#[derive(Debug)]
pub struct Verified {
    /// How many its config says that it has; all their values are finite.
    pub tensors: usize,
    /// Whether a record lists its files, and they are those.
    pub files_checked: bool,
    /// How its logits agree with those of a record, where there is one, and on what they were computed.
    pub compared: Option<(Agreement, AdapterDescription)>,
    /// Whether the trace could be written that was asked for.
    pub traced: Result<()>,
}

/// Reads all of a model, and compares it with the record of the run that wrote it, if there is one.
///
/// # Errors
/// [`Error::BadFile`] if it is not what was written, or has lost the record of how it was sliced; those of reading;
/// whatever the GPU reports.
pub fn verify(model: &Model, device: &DeviceRequest, log: &Log) -> Result<Verified> {
    let (config, tensors) = (model.config(), model.config().tensors().len());
    let record = RunRecord::load(model.directory(), config)?;
    if record.is_none() && config.slicing.is_some() {
        return Err(Error::bad_file(
            &model.directory().join(FILE),
            "missing: this sliced model has lost the record of its run, or comes from a version that wrote none; \
             `eval` measures what it is worth",
        ));
    }
    if record.is_none() && device.trace.is_some() {
        log.note("there is no record to compare logits with: nothing runs on the GPU, and no trace is written");
    }
    log.begin("reading tensors", tensors as u64);
    model.store.check_values(|| log.advance(1))?;
    log.end();
    if let Some(record) = &record {
        record.check_files(model)?;
    }
    if TokenizerFiles::read(model.directory())?.any() {
        Tokenizers::new(model, log).get()?;
    }
    let Some(record) = record else {
        return Ok(Verified { tensors, files_checked: false, compared: None, traced: Ok(()) });
    };
    let gpu = device.open(log)?;
    let agreement = record.record.compare(&gpu, model, log)?;
    log.end();
    let traced = device.close(&gpu, log);
    if !agreement.holds() {
        let reason = format!(
            "logits differ from those in {FILE} by {:.1e} of the largest, more than the {:.1e} that rounding explains: \
             the model is not the one that was written",
            agreement.largest_difference, agreement.tolerance
        );
        return Err(Error::bad_file(model.directory(), reason));
    }
    let compared = Some((agreement, gpu.adapter().clone()));
    Ok(Verified { tensors, files_checked: !record.files.is_empty(), compared, traced })
}
