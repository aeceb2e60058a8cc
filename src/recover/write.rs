//! Writing a trained model: what was trained as it is now, everything else as it was.

use super::job::Job;
use crate::{
    checkpoint::TensorPlan,
    error::{Error, Result},
    gpu::Gpu,
    model::{
        BlockWeights, HostNorm, Names, NormWeights, Step, StepWeights, TensorSpec,
        architecture::{BlockKind, Role},
    },
    stream::{self, Pass, StockForm},
};

/// Writes all tensors; `weights` has the weights of each step of a layer, `final_norm` what replaces that of the file.
pub(super) fn write(
    job: &Job,
    gpu: &Gpu,
    final_norm: Option<HostNorm>,
    weights: &mut dyn FnMut(usize, Step) -> Result<StepWeights>,
) -> Result<()> {
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
                for linear in block.linears.iter().filter(|linear| linear.role != Role::Router) {
                    let name = names.layer(layer, linear.spec.name);
                    match block.spec.kind {
                        // The expert that every token goes to, whose sizes are its own.
                        BlockKind::Mixture => pass.writer.matrix(&format!("{name}.weight"), &linear.weight)?,
                        _ => pass.writer.linear(layer, linear)?,
                    }
                    written.push(format!("{name}."));
                }
                if options.trained.norms {
                    write_norms(&mut pass, layer, block, &mut written)?;
                }
            }
        }
        let rest = |spec: &&TensorSpec| {
            spec.name.starts_with(start) && !written.iter().any(|done| spec.name.starts_with(done))
        };
        copied.iter().filter(rest).try_for_each(|spec| copy(&mut pass, tensors, spec))?;
        progress.advance(1)?;
    }
    copied.retain(|spec| !starts.iter().any(|start| spec.name.starts_with(start)));
    if let Some(norm) = final_norm {
        let name = names.final_norm();
        pass.writer.norm_weight(&name, &norm.weight)?;
        norm.bias.map_or(Ok(()), |bias| pass.writer.write(&format!("{name}.bias"), &bias))?;
        copied.retain(|spec| !spec.name.starts_with(&format!("{name}.")));
    }
    copied.iter().try_for_each(|spec| pass.copy(spec, &spec.name))?;
    pass.writer.finish()?;
    progress.end();
    Ok(())
}

/// Writes a tensor as it is; experts in MXFP4 as they are stored, where these are the tensors that are written.
fn copy(pass: &mut Pass, tensors: &[TensorPlan], spec: &TensorSpec) -> Result<()> {
    let written = |part: &TensorSpec| tensors.iter().any(|plan| plan.name == part.name);
    match spec.in_mxfp4() {
        Some(parts) if parts.iter().all(written) => pass.copy_mxfp4(spec, 0..spec.shape[0]),
        _ => pass.copy(spec, &spec.name),
    }
}

/// Writes the norms of a block, unless an earlier one has the same; `written` has what the names of all begin with that
/// are.
fn write_norms(pass: &mut Pass, layer: usize, block: &BlockWeights, written: &mut Vec<String>) -> Result<()> {
    let (gpu, config) = (pass.gpu, pass.config);
    let names = Names::of(config);
    let of_block = [(&block.norm, block.spec.norm), (&block.norm_after, block.spec.norm_after)];
    for (norm, name) in of_block.into_iter().filter_map(|(norm, name)| Some((norm.as_ref()?, name?))) {
        let name = names.layer(layer, name);
        let start = format!("{name}.");
        if written.contains(&start) {
            continue;
        }
        pass.writer.norm_weight(&name, &gpu.download(&norm.weight)?)?;
        if let Some(bias) = &norm.bias {
            pass.writer.matrix(&format!("{name}.bias"), bias)?;
        }
        written.push(start);
    }
    let Some(norms) = &block.head_norms else { return Ok(()) };
    let host = |norm: &NormWeights| {
        let bias = norm.bias.as_ref().map(|bias| gpu.download(bias)).transpose()?;
        Ok::<_, Error>(HostNorm { heads: norm.weight.rows(), weight: gpu.download(&norm.weight)?, bias })
    };
    pass.writer.head_norms(layer, &[host(&norms[0])?, host(&norms[1])?])?;
    let stems = config.head_norms(layer).into_iter().flatten();
    written.extend(stems.map(|(stem, _)| format!("{}.", names.layer(layer, &stem))));
    Ok(())
}
