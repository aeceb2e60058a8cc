//! `slicegpt-gpu verify`

use std::path::PathBuf;

use serde_json::json;

use super::{
    arguments::{DeviceArgs, ForceArgs},
    print::{print, print_json},
    progress::Bars,
};
use crate::{
    error::Result,
    run::{FILE, SCHEMA_VERSION, Verified, find_model, grouped, open_model, verify, writes_beside},
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
        let Verified { tensors, files_checked, compared, traced } = verify(&model, &device, &progress)?;
        let config = model.config();
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
                "files_checked": files_checked,
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
