//! Writing a trained model: what was trained as it is now, everything else as it was.

use super::job::Job;
use crate::{
    error::Result,
    gpu::Gpu,
    model::{Names, Step, StepWeights, TensorSpec},
    stream::{self, Pass, StockForm},
};

/// Writes all tensors; `weights` has the weights of each step of a layer.
pub(super) fn write(job: &Job, gpu: &Gpu, weights: &mut dyn FnMut(usize, Step) -> Result<StepWeights>) -> Result<()> {
    let Job { model, options, memory, tensors, directory, progress, .. } = *job;
    let config = job.config();
    let stream_job = stream::Job {
        model,
        rows: &[],
        counted: None,
        watched: 0,
        memory,
        output: config,
        tensors,
        directory,
        progress,
    };
    let mut pass = Pass::new(gpu, stream_job, StockForm::fused(config.hidden_size), None)?;
    let names = Names::of(config);
    let layers = config.layers.len();
    progress.begin("write", layers as u64);
    let mut copied: Vec<TensorSpec> = config.tensors();
    let starts: Vec<String> = (0..layers).map(|layer| names.layer(layer, "")).collect();
    for (layer, start) in starts.iter().enumerate() {
        let mut written = Vec::new();
        for step in config.layer_steps(layer) {
            let weights = weights(layer, step)?;
            for block in &weights.blocks {
                for linear in &block.linears {
                    pass.writer.linear(layer, linear)?;
                    written.push(format!("{}.", names.layer(layer, linear.spec.name)));
                }
                let norm = block.norm.as_ref().filter(|_| options.trained.norms);
                let (Some(norm), Some(name)) = (norm, block.spec.norm) else { continue };
                let name = names.layer(layer, name);
                pass.writer.matrix(&format!("{name}.weight"), &norm.weight)?;
                if let Some(bias) = &norm.bias {
                    pass.writer.matrix(&format!("{name}.bias"), bias)?;
                }
                written.push(format!("{name}."));
            }
        }
        let rest = |spec: &&TensorSpec| {
            spec.name.starts_with(start) && !written.iter().any(|done| spec.name.starts_with(done))
        };
        copied.iter().filter(rest).try_for_each(|spec| pass.copy(spec, &spec.name))?;
        progress.advance(1)?;
    }
    copied.retain(|spec| !starts.iter().any(|start| spec.name.starts_with(start)));
    copied.iter().try_for_each(|spec| pass.copy(spec, &spec.name))?;
    pass.writer.finish()?;
    progress.end();
    Ok(())
}
