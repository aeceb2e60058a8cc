//! Tensors on their way to the output: in their types, under their names, wherever in a layer they were made.

use std::collections::HashMap;

use super::stock::StockForm;
use crate::{
    checkpoint::{Dtype, OutputDirectory, SHARD_BYTES, TensorPlan, TensorWriter},
    error::{Error, Result},
    gpu::{ElementType, Gpu, Matrix},
    model::{
        Config, HostLayer, HostNorm, Linear, Names, Rows,
        architecture::{Layout, Role, Space},
        element_type, scatter,
    },
};

/// Values converted at a time.
const PIECE: usize = 1 << 20;

/// Writes the planned tensors.
pub struct Writer<'a> {
    gpu: &'a Gpu,
    /// Of the output.
    config: &'a Config,
    types: HashMap<String, Dtype>,
    form: StockForm,
    /// `None` where nothing is written.
    file: Option<TensorWriter>,
    /// Stored tensors that hold several weights, until all of these are there.
    partial: HashMap<String, Partial>,
}

/// A stored tensor, row-major `[out, in]`, of whose weights some are missing.
struct Partial {
    values: Vec<f32>,
    missing: usize,
}

impl<'a> Writer<'a> {
    /// Starts, or continues after the embeddings and the tensors of `layers` layers.
    ///
    /// # Errors
    /// As [`TensorWriter::new`] and [`TensorWriter::resume`].
    pub fn new(
        gpu: &'a Gpu,
        config: &'a Config,
        tensors: &[TensorPlan],
        directory: &OutputDirectory,
        form: StockForm,
        layers: Option<usize>,
    ) -> Result<Self> {
        let names = Names::of(config);
        let file = match layers {
            _ if tensors.is_empty() => None,
            None => Some(TensorWriter::new(directory, tensors, SHARD_BYTES)?),
            Some(layers) => {
                let mut done: Vec<String> = (0..layers).map(|layer| names.layer(layer, "")).collect();
                done.extend(names.before_layers());
                let is_done = |name: &str| done.iter().any(|start| name.starts_with(start));
                Some(TensorWriter::resume(directory, tensors, SHARD_BYTES, is_done)?)
            }
        };
        let types = tensors.iter().map(|tensor| (tensor.name.clone(), tensor.dtype)).collect();
        Ok(Self { gpu, config, types, form, file, partial: HashMap::new() })
    }

    /// What the residual stream of the output is multiplied by.
    pub fn stream_scale(&self) -> f32 {
        self.form.stream_scale
    }

    /// Whether nothing is written.
    pub fn is_idle(&self) -> bool {
        self.file.is_none()
    }

    /// Writes a weight of a layer, and its bias.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub fn linear(&mut self, layer: usize, linear: &Linear) -> Result<()> {
        if self.is_idle() {
            return Ok(());
        }
        let Linear { spec, role, weight, bias } = linear;
        let (reads, writes) = (spec.reads == Space::Residual, spec.writes == Space::Residual);
        let lifted = match (reads, writes) {
            (true, _) => self.form.rows(self.gpu, weight)?,
            (_, true) => self.form.columns(self.gpu, weight)?,
            _ => weight.clone(),
        };
        let mut values = self.gpu.download(&lifted)?;
        amplify(&mut values, if reads { self.form.gain } else { 1.0 });
        amplify(&mut values, if writes { self.form.stream_scale } else { 1.0 });
        let own_norm = matches!(role, Role::Query | Role::Key);
        let query_gain = self.form.query_gain.filter(|_| own_norm).unwrap_or(1.0);
        amplify(&mut values, query_gain);
        let rows = if writes { Rows::Run(0..lifted.rows()) } else { self.config.weight_rows(spec, *role, layer) };
        let name = Names::of(self.config).layer(layer, spec.name);
        let width = lifted.cols();
        if let Some((all, rows)) = self.stored(&format!("{name}.weight"), linear, layer, &rows, values, width) {
            let all = match spec.layout {
                Layout::Linear => all,
                Layout::Conv1d => transposed(&all, rows, width).collect(),
            };
            self.write(&format!("{name}.weight"), &all)?;
        }
        let Some(bias) = bias else { return Ok(()) };
        let lifted = if writes { self.form.rows(self.gpu, bias)? } else { bias.clone() };
        let mut bias = self.gpu.download(&lifted)?;
        amplify(&mut bias, if writes { self.form.stream_scale } else { query_gain });
        match self.stored(&format!("{name}.bias"), linear, layer, &rows, bias, 1) {
            Some((all, _)) => self.write(&format!("{name}.bias"), &all),
            None => Ok(()),
        }
    }

    /// The stored tensor with these rows in it, and how many rows it has, once all of its weights are there.
    fn stored(
        &mut self,
        name: &str,
        linear: &Linear,
        layer: usize,
        rows: &Rows,
        values: Vec<f32>,
        width: usize,
    ) -> Option<(Vec<f32>, usize)> {
        if linear.spec.holds.len() == 1 && matches!(rows, Rows::Run(_)) {
            return Some((values, rows.len()));
        }
        let (total, _) = self.config.weight_shape(linear.spec, layer);
        let new = || Partial { values: vec![0.0; total * width], missing: linear.spec.holds.len() };
        let partial = self.partial.entry(name.to_owned()).or_insert_with(new);
        scatter(rows, &values, width, &mut partial.values);
        partial.missing -= 1;
        if partial.missing > 0 {
            return None;
        }
        self.partial.remove(name).map(|partial| (partial.values, total))
    }

    /// Writes rows of an embedding.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub fn table(&mut self, name: &str, part: &Matrix) -> Result<()> {
        let mut values = self.gpu.download(&self.form.rows(self.gpu, part)?)?;
        // The checkpoint's embedding is without the factor that the model multiplies it by.
        amplify(&mut values, self.form.stream_scale / self.config.embedding_scale);
        self.write(name, &values)
    }

    /// Writes rows of the head, which reads a norm.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub fn head(&mut self, name: &str, part: &Matrix) -> Result<()> {
        let mut values = self.gpu.download(&self.form.rows(self.gpu, part)?)?;
        amplify(&mut values, self.form.gain / self.config.logit_scale);
        self.write(name, &values)
    }

    /// Writes the parameters of a norm, where the output has any.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub fn norm(&mut self, name: &str) -> Result<()> {
        let Some(weight) = self.form.norm else { return Ok(()) };
        self.norm_weight(name, &vec![weight; self.form.width])?;
        if self.form.norm_bias { self.write(&format!("{name}.bias"), &vec![0.0; self.form.width]) } else { Ok(()) }
    }

    /// Writes the weight of a norm, as the checkpoint has it.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub fn norm_weight(&mut self, name: &str, weights: &[f32]) -> Result<()> {
        let offset = self.config.architecture.norm.offset;
        let stored: Vec<f32> = weights.iter().map(|weight| weight - offset).collect();
        self.write(&format!("{name}.weight"), &stored)
    }

    /// Writes what a layer has beside its linear weights: the norms of the residual, where the output has them, those
    /// of queries and keys, and what a gated delta net has.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub fn norms(&mut self, layer: usize, weights: &HostLayer) -> Result<()> {
        for name in Names::of(self.config).layer_norms(layer) {
            self.norm(&name)?;
        }
        if let Some(norms) = weights.blocks().find_map(|block| block.head_norms.as_ref()) {
            self.head_norms(layer, norms)?;
        }
        let delta = weights.blocks().find_map(|block| block.delta.as_ref());
        let tensors = self.config.delta_tensors(layer).into_iter().flatten();
        let stored = delta.map(|delta| [&delta.convolution, &delta.rate, &delta.decay_bias, &delta.norm]);
        for ((name, _), values) in tensors.zip(stored.into_iter().flatten()) {
            self.write(&Names::of(self.config).layer(layer, &name), values)?;
        }
        Ok(())
    }

    /// Writes the norms of queries and keys of a layer.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub fn head_norms(&mut self, layer: usize, norms: &[HostNorm; 2]) -> Result<()> {
        let names = Names::of(self.config);
        for (stored, norm) in self.config.head_norms(layer).into_iter().zip(norms) {
            let each = norm.weight.len() / stored.len().max(1);
            let places = Rows::Listed(self.config.head_norm_places(layer, norm.weight.len()));
            let as_stored = |values: &[f32]| {
                let mut stored = vec![0.0; values.len()];
                scatter(&places, values, 1, &mut stored);
                stored
            };
            let (weight, bias) = (as_stored(&norm.weight), norm.bias.as_deref().map(as_stored));
            for (at, (stem, _)) in stored.into_iter().enumerate() {
                let (name, values) = (names.layer(layer, &stem), at * each..(at + 1) * each);
                self.norm_weight(&name, &weight[values.clone()])?;
                if let Some(bias) = &bias {
                    self.write(&format!("{name}.bias"), &bias[values])?;
                }
            }
        }
        Ok(())
    }

    /// Writes what is on the GPU.
    ///
    /// # Errors
    /// As [`Writer::write`]; whatever the readback reports.
    pub fn matrix(&mut self, name: &str, matrix: &Matrix) -> Result<()> {
        self.write(name, &self.gpu.download(matrix)?)
    }

    /// Appends values to a tensor, in its planned type.
    ///
    /// # Errors
    /// [`Error::Numerical`] if a value is not finite or beyond what the type holds; [`Error::Write`]; [`Error::Shape`]
    /// if it is not planned.
    pub fn write(&mut self, name: &str, values: &[f32]) -> Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let dtype = self.types.get(name).copied().unwrap_or(Dtype::F32);
        let element = element_type(dtype).unwrap_or(ElementType::F32);
        if let Some(value) = values.iter().find(|value| value.is_nan() || value.abs() > element.max()) {
            let way_out = if value.is_finite() {
                "; use --dtype bf16 or f32"
            } else {
                ": the model's weights or signals overflow"
            };
            return Err(Error::Numerical(format!("{name} holds {value}, which {dtype:?} cannot{way_out}")));
        }
        if values.is_empty() {
            return file.write(name, &[]);
        }
        for piece in values.chunks(PIECE) {
            file.write(name, &element.encode(piece))?;
        }
        Ok(())
    }

    /// Appends bytes to a tensor that is written as it is stored.
    ///
    /// # Errors
    /// [`Error::Write`]; [`Error::Shape`] if it is not planned.
    pub fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.file.as_mut().map_or(Ok(()), |file| file.write(name, bytes))
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// [`Error::Write`].
    pub fn sync(&self) -> Result<()> {
        self.file.as_ref().map_or(Ok(()), TensorWriter::sync)
    }

    /// Checks that everything planned was written, and makes it durable.
    ///
    /// # Errors
    /// As [`TensorWriter::finish`].
    pub fn finish(self) -> Result<()> {
        self.file.map_or(Ok(()), TensorWriter::finish)
    }
}

fn amplify(values: &mut [f32], gain: f32) {
    if gain != 1.0 {
        values.iter_mut().for_each(|value| *value *= gain);
    }
}

/// A row-major matrix of `rows` and `cols`, column by column.
pub fn transposed<T: Copy>(values: &[T], rows: usize, cols: usize) -> impl Iterator<Item = T> {
    (0..cols).flat_map(move |col| (0..rows).map(move |row| values[row * cols + col]))
}
