//! `slicegpt-gpu verify`

use std::path::PathBuf;

use serde_json::json;

use super::{
    arguments::{DeviceArgs, ForceArgs},
    print::{print, print_json},
    progress::Bars,
};
use crate::{
    data::TokenizerFiles,
    error::{Error, Result},
    progress::Progress,
    run::{FILE, RunRecord, SCHEMA_VERSION, Tokenizers, find_model, grouped, open_model, writes_beside},
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The output of a run, or any model: a directory, a .safetensors file with its config.json beside it, a
    /// .gguf file, or a name on the Hugging Face Hub such as org/name
    model: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    force: ForceArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

impl Args {
    pub fn execute(&self) -> Result<()> {
        let (progress, device) = (Bars::log(), self.device.request());
        // Config, names, shapes and widths.
        let model = open_model(&find_model(&self.model, &progress)?, &progress)?;
        device.plan_trace(&mut writes_beside(&model, self.force.force), &progress)?;
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
            progress
                .note("there is no record to compare logits with: nothing runs on the GPU, and no trace is written");
        }
        progress.begin("reading tensors", tensors as u64);
        model.store.check_values(|| progress.advance(1))?;
        progress.end();
        if let Some(record) = &record {
            record.check_files(&model)?;
        }
        if TokenizerFiles::read(model.directory())?.any() {
            Tokenizers::new(&model, &progress).get()?;
        }
        let (mut compared, mut traced) = (None, Ok(()));
        if let Some(record) = &record {
            let gpu = device.open(&progress)?;
            let agreement = record.record.compare(&gpu, &model, &progress)?;
            progress.end();
            traced = device.close(&gpu, &progress);
            if !agreement.holds() {
                return Err(Error::bad_file(
                    model.directory(),
                    format!(
                        "logits differ from those in {FILE} by {:.1e} of the largest, more than the {:.1e} that \
                         rounding explains: the model is not the one that was written",
                        agreement.largest_difference, agreement.tolerance
                    ),
                ));
            }
            compared = Some((agreement, gpu.adapter().clone()));
        }
        let widths: Vec<_> = (0..config.layers.len()).map(|layer| config.widths(layer)).collect();
        if self.json {
            let shown = print_json(&json!({
                "schema_version": SCHEMA_VERSION,
                "model": self.model.display().to_string(),
                "model_type": config.raw.get("model_type"),
                "tensors": tensors,
                "bytes": model.store.checkpoint.stored_len(),
                "parameters": config.parameters(),
                "widths": widths,
                "files_checked": record.as_ref().is_some_and(|record| !record.files.is_empty()),
                "record": compared.as_ref().map(|(agreement, _)| agreement),
                "adapter": compared.as_ref().map(|(_, adapter)| adapter),
                "warnings": progress.warnings(),
                "seconds": progress.seconds(),
            }));
            return shown.and(traced);
        }
        let whole = format!(
            "{}: {tensors} tensors of {} finite parameters",
            self.model.display(),
            grouped(config.parameters())
        );
        let shown = print(&match compared {
            Some((agreement, adapter)) => format!(
                "{whole}; {} logits as the run recorded them, to {:.1e} of the largest (allowed {:.1e}) on {}\n",
                agreement.logits, agreement.largest_difference, agreement.tolerance, adapter.name
            ),
            None => format!("{whole}; there is no {FILE} beside it to compare logits with\n"),
        });
        shown.and(traced)
    }
}
