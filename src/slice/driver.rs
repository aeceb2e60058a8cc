//! The loop over the layers: one layer's weights on the GPU at a time, written out as soon as they are done.

use std::collections::HashMap;

use faer::Mat;
use half::{bf16, f16};

use super::{
    calibrate::Covariance,
    fuse,
    plan::{Options, Orientation, Plan},
    rotate::Rotation,
};
use crate::{
    checkpoint::{Dtype, OutputDirectory, SHARD_BYTES, TensorWriter},
    error::{Error, Result},
    gpu::{Gpu, Matrix},
    linalg::random_orthogonal,
    model::{
        Batch, Config, HostEnds, HostMatrix, LayerWeights, Linear, Model, Names,
        architecture::{Layout, Position, Space},
        halves, plan_batches,
    },
    progress::Progress,
};

/// What was found at one point of the residual stream: the embeddings, then after each half of each layer.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Site {
    /// `None` for the embeddings.
    pub layer: Option<usize>,
    /// The share of the signal's energy in the coordinates that slicing keeps: Σ_{i<d} λ_i / Σ λ_i. The last layer's output is not sliced;
    /// the share is given all the same.
    pub kept_energy: f64,
    /// max |C·Q − Q·Λ| / max |C|.
    pub eigen_residual: f64,
    /// max |Qᵀ·Q − I|.
    pub orthogonality: f64,
}

/// Slices `model` as planned, from the signals of the calibration sequences `rows`, into tensors in `directory`.
///
/// # Errors
/// [`Error::BadTensor`], [`Error::Numerical`] if a signal is not finite or a solve fails its check, [`Error::Write`], [`Error::Interrupted`], and
/// whatever the GPU reports.
pub fn slice(
    gpu: &Gpu,
    model: &Model,
    rows: &[Vec<u32>],
    options: &Options,
    plan: &Plan,
    directory: &OutputDirectory,
    progress: &dyn Progress,
) -> Result<Vec<Site>> {
    let config = model.config();
    let mut driver =
        Driver { gpu, config, options, plan, writer: TensorWriter::new(directory, &plan.tensors, SHARD_BYTES)?, sites: Vec::new(), progress };
    let ranges = plan_batches(gpu, config, rows, options.rows_per_batch)?;
    let steps = 1 + config.num_hidden_layers * halves(config).len();
    progress.begin("slice", (steps * (ranges.len() + 1)) as u64);

    let batches =
        ranges.into_iter().map(|range| Batch::new(gpu, &rows[range].iter().map(Vec::as_slice).collect::<Vec<_>>())).collect::<Result<Vec<_>>>()?;
    let rope_table = model.rope_table(gpu, rows.iter().map(Vec::len).max().unwrap_or(0))?;
    let ends = model.store.ends()?;
    let signals = driver.embed(&ends, &batches)?;
    let mut rotation = driver.axes(None, &signals, plan.width)?;
    driver.write_embeddings(&ends, &rotation)?;
    let mut signals: Vec<Matrix> = signals.into_iter().map(|x| rotation.rows(gpu, &x)).collect::<Result<_>>()?;

    for layer in 0..config.num_hidden_layers {
        let mut weights = LayerWeights::upload(gpu, &fuse::layer(config, &model.store.layer(layer)?))?;
        for half in halves(config) {
            for linear in weights.linears.iter_mut().filter(|linear| half.has(linear.spec.role) && linear.spec.reads == Space::Residual) {
                linear.weight = rotation.rows(gpu, &linear.weight)?;
            }
            weights.shortcuts[half.shortcut] = Some(rotation.back().clone());
            for (batch, x) in batches.iter().zip(&mut signals) {
                let context = batch.context(gpu, config, layer, rope_table.as_ref());
                *x = context.half(&weights, *half, x.clone())?;
                progress.advance(1)?;
            }
            let widths = plan.config.widths(layer);
            let width = if half.mlp { widths.output } else { widths.mlp_input };
            let next = driver.axes(Some(layer), &signals, width)?;
            for linear in weights.linears.iter_mut().filter(|linear| half.has(linear.spec.role) && linear.spec.writes == Space::Residual) {
                linear.weight = next.columns(gpu, &linear.weight)?;
                linear.bias = linear.bias.as_ref().map(|bias| next.rows(gpu, bias)).transpose()?;
            }
            weights.shortcuts[half.shortcut] = Some(rotation.shortcut(gpu, &next)?);
            rotation = next;
            for x in &mut signals {
                *x = rotation.rows(gpu, x)?;
            }
        }
        driver.write_layer(layer, &weights)?;
    }
    driver.write_head(&ends, &rotation)?;
    driver.writer.finish()?;
    Ok(driver.sites)
}

struct Driver<'a> {
    gpu: &'a Gpu,
    config: &'a Config,
    options: &'a Options,
    plan: &'a Plan,
    writer: TensorWriter,
    sites: Vec<Site>,
    progress: &'a dyn Progress,
}

impl Driver<'_> {
    /// The fused embeddings of the calibration tokens, in the original basis.
    fn embed(&mut self, ends: &HostEnds, batches: &[Batch]) -> Result<Vec<Matrix>> {
        let signals = batches.iter().map(|batch| self.gpu.zeros(batch.tokens, self.config.hidden_size)).collect::<Result<Vec<_>>>()?;
        self.each_part(&ends.embedding, |driver, first, part| {
            batches.iter().zip(&signals).try_for_each(|(batch, x)| driver.gpu.embed(&batch.ids, first, part, x, false))
        })?;
        if let (Some(positions), Position::Learned { offset, .. }) = (&ends.positions, self.config.architecture.position) {
            self.each_part(positions, |driver, first, part| {
                batches.iter().zip(&signals).try_for_each(|(batch, x)| driver.gpu.embed_positions(&batch.positions, first, offset, part, x))
            })?;
        }
        self.progress.advance(batches.len() as u64)?;
        Ok(signals)
    }

    /// Goes through an embedding's fused rows, as many at a time as one binding holds.
    fn each_part(&mut self, table: &HostMatrix, mut each: impl FnMut(&mut Self, usize, &Matrix) -> Result<()>) -> Result<()> {
        for rows in parts(self.gpu, table) {
            let values = fuse::embedding_rows(self.config, table, rows.clone());
            let part = self.gpu.upload(&values, rows.len(), table.cols)?;
            each(self, rows.start, &part)?;
        }
        Ok(())
    }

    /// The rotation into the first `width` principal axes of the signals, which is noted down as the next site.
    fn axes(&mut self, layer: Option<usize>, signals: &[Matrix], width: usize) -> Result<Rotation> {
        let mut covariance = Covariance::new(self.config.hidden_size);
        for x in signals {
            covariance.add(self.gpu, x)?;
        }
        let eigen = covariance.principal_axes().map_err(|error| match (error, layer) {
            (Error::Numerical(reason), Some(layer)) => Error::Numerical(format!("layer {layer}: {reason}")),
            (Error::Numerical(reason), None) => Error::Numerical(format!("embeddings: {reason}")),
            (other, _) => other,
        })?;
        let kept = eigen.vectors.subcols(0, width);
        let rotation = match self.options.orientation {
            Orientation::Pca => Rotation::upload(self.gpu, kept, width)?,
            Orientation::Random => {
                let turned: Mat<f64> = kept * random_orthogonal(width, self.options.seed, self.sites.len() as u64);
                Rotation::upload(self.gpu, turned.as_ref(), width)?
            }
        };
        self.sites.push(Site {
            layer,
            kept_energy: eigen.kept_energy(self.plan.width),
            eigen_residual: eigen.residual,
            orthogonality: eigen.orthogonality,
        });
        self.progress.advance(1)?;
        Ok(rotation)
    }

    fn write_embeddings(&mut self, ends: &HostEnds, rotation: &Rotation) -> Result<()> {
        let names = Names::of(self.config);
        let tables = [(Some(names.embedding()), Some(&ends.embedding)), (names.positions(), ends.positions.as_ref())];
        for (name, table) in tables.into_iter().filter_map(|(name, table)| Some((name?, table?))) {
            self.each_part(table, |driver, _, part| {
                let rotated = rotation.rows(driver.gpu, part)?;
                driver.write(&name, &driver.gpu.download(&rotated)?)
            })?;
        }
        Ok(())
    }

    fn write_head(&mut self, ends: &HostEnds, rotation: &Rotation) -> Result<()> {
        let names = Names::of(self.config);
        let mut biases = Vec::new();
        for rows in parts(self.gpu, &ends.head) {
            let (values, bias) = fuse::head_rows(ends, rows.clone());
            let part = self.gpu.upload(&values, rows.len(), ends.head.cols)?;
            let rotated = rotation.rows(self.gpu, &part)?;
            self.write(&names.head(), &self.gpu.download(&rotated)?)?;
            biases.extend(bias.into_iter().flatten());
        }
        if biases.is_empty() { Ok(()) } else { self.write(&names.head_bias(), &biases) }
    }

    /// Writes the tensors of one layer in the planned order.
    fn write_layer(&mut self, layer: usize, weights: &LayerWeights) -> Result<()> {
        let names = Names::of(self.config);
        let mut tensors: HashMap<String, Vec<f32>> = HashMap::new();
        for Linear { spec, weight, bias } in &weights.linears {
            let values = self.gpu.download(weight)?;
            let values = match spec.layout {
                Layout::Linear => values,
                Layout::Conv1d => transposed(&values, weight.rows(), weight.cols()),
            };
            tensors.insert(names.layer(layer, &format!("{}.weight", spec.name)), values);
            if let Some(bias) = bias {
                tensors.insert(names.layer(layer, &format!("{}.bias", spec.name)), self.gpu.download(bias)?);
            }
        }
        if let (Some(norms), Some(qk)) = (&weights.head_norms, self.config.architecture.qk_norm) {
            for (name, norm) in [qk.q, qk.k].into_iter().zip(norms) {
                tensors.insert(names.layer(layer, &format!("{name}.weight")), self.gpu.download(&norm.weight)?);
                if let Some(bias) = &norm.bias {
                    tensors.insert(names.layer(layer, &format!("{name}.bias")), self.gpu.download(bias)?);
                }
            }
        }
        for (half, shortcut) in weights.shortcuts.iter().enumerate() {
            if let Some(shortcut) = shortcut {
                tensors.insert(names.shortcut(layer, half), self.gpu.download(shortcut)?);
            }
        }
        let start = names.layer(layer, "");
        let planned: Vec<String> = self.plan.tensors.iter().map(|tensor| tensor.name.clone()).filter(|name| name.starts_with(&start)).collect();
        for name in planned {
            let values = tensors.get(&name).ok_or_else(|| Error::shape("slice", format!("{name} is planned but was not made")))?;
            self.write(&name, values)?;
        }
        Ok(())
    }

    /// Writes values in the output's type.
    fn write(&mut self, name: &str, values: &[f32]) -> Result<()> {
        let dtype = self.options.dtype;
        let most = match dtype {
            Dtype::F16 => f16::MAX.to_f32(),
            _ => f32::MAX,
        };
        if let Some(value) = values.iter().find(|value| value.is_nan() || value.abs() > most) {
            let way_out = if value.is_finite() { "; use --dtype bf16 or f32" } else { ": the model's weights or signals overflow" };
            return Err(Error::Numerical(format!("{name} holds {value}, which {dtype:?} cannot{way_out}")));
        }
        let bytes: Vec<u8> = match dtype {
            Dtype::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
            Dtype::BF16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        };
        self.writer.write(name, &bytes)
    }
}

/// Ranges of rows of a table whose f32 values one binding holds.
fn parts(gpu: &Gpu, table: &HostMatrix) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
    let (rows, step) = (table.rows, gpu.rows_per_binding(table.cols.next_multiple_of(4) * 4));
    (0..rows).step_by(step).map(move |first| first..rows.min(first + step))
}

fn transposed(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..cols).flat_map(|col| (0..rows).map(move |row| values[row * cols + col])).collect()
}
