//! What every method does: sequences in batches, embeddings into residuals, fused weights onto the GPU, tensors out.

use std::{fmt::Display, ops::Range, thread::Scope, time::Instant};

use super::{
    memory::MemoryPlan,
    read_ahead::ReadAhead,
    stock::StockForm,
    store::{Placement, Residual},
    writer::Writer,
};
use crate::{
    checkpoint::{OutputDirectory, TensorPlan},
    error::{Error, Result},
    gpu::{Gpu, Matrix},
    model::{
        Batch, Config, HostEnds, HostMatrix, Linear, Model, Names, Step, TensorSpec, architecture::Position, fuse,
        plan_batches,
    },
    progress::Progress,
};

/// The most values of a tensor that are copied at a time.
const COPIED: usize = 1 << 22;

/// A model, the sequences that run through it, and where the result goes.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    pub model: &'a Model,
    /// The calibration sequences.
    pub rows: &'a [Vec<u32>],
    /// Which tokens of each are to be learned, where something is; all if `None`.
    pub counted: Option<&'a [Vec<bool>]>,
    /// How many of them, at the end, only run along: nothing is fitted to them.
    pub watched: usize,
    pub memory: MemoryPlan,
    /// The config of the output: its sizes are those that are written.
    pub output: &'a Config,
    /// Every tensor of the output; nothing is written if there are none.
    pub tensors: &'a [TensorPlan],
    /// Where the tensors go, and, beside them, what is needed to resume.
    pub directory: &'a OutputDirectory,
    pub progress: &'a dyn Progress,
}

/// One pass over a model.
pub struct Pass<'a> {
    pub gpu: &'a Gpu,
    pub job: Job<'a>,
    /// Of the dense model.
    pub config: &'a Config,
    /// Sequences of each batch.
    pub batches: Vec<Range<usize>>,
    /// How many of the batches count: those after them only run along.
    pub counted: usize,
    pub writer: Writer<'a>,
    ahead: Option<ReadAhead>,
}

impl<'a> Pass<'a> {
    /// Starts, or continues after the tensors of `layers` layers.
    ///
    /// # Errors
    /// As [`Writer::new`]; [`crate::Error::Usage`] if a sequence is too long for the GPU.
    pub fn new(gpu: &'a Gpu, job: Job<'a>, form: StockForm, layers: Option<usize>) -> Result<Self> {
        let config = job.model.config();
        let (counted, watched) = job.rows.split_at(job.rows.len().saturating_sub(job.watched));
        let mut batches = plan_batches(gpu, config, counted, job.memory.batch)?;
        let count = batches.len();
        let along = plan_batches(gpu, config, watched, job.memory.batch)?;
        batches.extend(along.into_iter().map(|rows| rows.start + counted.len()..rows.end + counted.len()));
        let writer = Writer::new(gpu, job.output, job.tensors, job.directory, form, layers)?;
        Ok(Self { gpu, job, config, batches, counted: count, writer, ahead: None })
    }

    /// An empty residual of all sequences, `width` wide.
    pub fn residual(&self, name: &str, width: usize) -> Residual {
        self.residual_in(name, width, self.job.memory.placement)
    }

    /// The same in another place.
    pub fn residual_in(&self, name: &str, width: usize, placement: Placement) -> Residual {
        let tokens = |range: &Range<usize>| self.job.rows[range.clone()].iter().map(Vec::len).sum();
        let batches = self.batches.iter().map(tokens).collect();
        Residual::new(self.job.directory, name, placement, width, batches)
    }

    /// The sequences of a batch.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn batch(&self, index: usize) -> Result<Batch> {
        let rows: Vec<&[u32]> = self.job.rows[self.batches[index].clone()].iter().map(Vec::as_slice).collect();
        Batch::new(self.gpu, self.config, &rows)
    }

    /// Fills the residual after the embeddings, in the original basis.
    ///
    /// # Errors
    /// [`crate::Error::BadTensor`], [`crate::Error::Write`], whatever the GPU reports.
    pub fn embed(&mut self, ends: &HostEnds, residual: &mut Residual) -> Result<()> {
        self.each_part(&ends.embedding, |pass, first, part| {
            pass.each_residual(residual, first > 0, |gpu, batch, x| gpu.embed(&batch.ids, first, part, x, false))
        })?;
        if let (Some(positions), Position::Learned { offset, .. }) =
            (&ends.positions, self.config.architecture.attention.position)
        {
            self.each_part(positions, |pass, first, part| {
                pass.each_residual(residual, true, |gpu, batch, x| {
                    gpu.embed_positions(&batch.positions, first, offset, part, x)
                })
            })?;
        }
        Ok(())
    }

    /// Adds to the residual of each batch, which is zero at first.
    fn each_residual(
        &self,
        residual: &mut Residual,
        begun: bool,
        add: impl Fn(&Gpu, &Batch, &Matrix) -> Result<()>,
    ) -> Result<()> {
        for index in 0..self.batches.len() {
            let batch = self.batch(index)?;
            let x = if begun {
                residual.load(self.gpu, index)?
            } else {
                self.gpu.zeros(batch.tokens, self.config.hidden_size)?
            };
            add(self.gpu, &batch, &x)?;
            residual.store(self.gpu, index, x, false)?;
        }
        residual.finish_pass();
        Ok(())
    }

    /// Writes the embeddings as `map` makes them of their rows.
    ///
    /// # Errors
    /// As [`Writer::write`]; those of `map`.
    pub fn write_tables(&mut self, ends: &HostEnds, map: impl Fn(&Gpu, &Matrix) -> Result<Matrix>) -> Result<()> {
        if self.writer.is_idle() {
            return Ok(());
        }
        let names = Names::of(self.config);
        let tables = [(Some(names.embedding()), Some(&ends.embedding)), (names.positions(), ends.positions.as_ref())];
        for (name, table) in tables.into_iter().filter_map(|(name, table)| Some((name?, table?))) {
            self.each_part(table, |pass, _, part| pass.writer.table(&name, &map(pass.gpu, part)?))?;
        }
        Ok(())
    }

    /// Goes through an embedding's fused rows, as many at a time as planned.
    fn each_part(
        &mut self,
        table: &HostMatrix,
        mut each: impl FnMut(&mut Self, usize, &Matrix) -> Result<()>,
    ) -> Result<()> {
        for rows in self.job.memory.parts(self.gpu, table) {
            let values = fuse::embedding_rows(self.config, table, rows.clone())?;
            let part = self.gpu.upload(&values, rows.len(), table.cols)?;
            each(self, rows.start, &part)?;
        }
        Ok(())
    }

    /// Goes through the head's fused rows and biases, as many at a time as planned.
    ///
    /// # Errors
    /// As [`fuse::head_rows`]; [`crate::Error::OutOfMemory`]; those of `each`.
    pub fn each_head_part(
        &mut self,
        ends: &HostEnds,
        mut each: impl FnMut(&mut Self, &Matrix, Option<Vec<f32>>) -> Result<()>,
    ) -> Result<()> {
        for rows in self.job.memory.parts(self.gpu, &ends.head) {
            let (values, bias) = fuse::head_rows(ends, rows.clone())?;
            let part = self.gpu.upload(&values, rows.len(), ends.head.cols)?;
            each(self, &part, bias)?;
        }
        Ok(())
    }

    /// Goes through the head's rows and biases, with the final norm in them if `fused`, as many at a time as planned.
    ///
    /// # Errors
    /// As [`Pass::each_head_part`].
    pub fn each_head(
        &mut self,
        ends: &HostEnds,
        fused: bool,
        mut each: impl FnMut(&mut Self, &Matrix, Option<Vec<f32>>) -> Result<()>,
    ) -> Result<()> {
        if fused {
            return self.each_head_part(ends, each);
        }
        for rows in self.job.memory.parts(self.gpu, &ends.head) {
            let part = self.gpu.upload(&ends.head.rows_f32(rows.clone())?, rows.len(), ends.head.cols)?;
            each(self, &part, ends.head_bias.as_ref().map(|bias| bias[rows].to_vec()))?;
        }
        Ok(())
    }

    /// Writes the head as `map` makes it of its rows and biases, and the final norm where the output has one.
    ///
    /// # Errors
    /// As [`Pass::each_head_part`] and [`Writer::write`].
    pub fn write_head(
        &mut self,
        ends: &HostEnds,
        map: impl Fn(&Gpu, &Matrix, Option<Vec<f32>>) -> Result<(Matrix, Option<Vec<f32>>)>,
    ) -> Result<()> {
        let names = Names::of(self.config);
        let mut biases = Vec::new();
        self.each_head_part(ends, |pass, part, bias| {
            let (part, bias) = map(pass.gpu, part, bias)?;
            biases.extend(bias.into_iter().flatten());
            pass.writer.head(&names.head(), &part)
        })?;
        self.writer.norm(&names.final_norm())?;
        biases.iter_mut().for_each(|bias| *bias /= self.config.logit_scale);
        if biases.is_empty() { Ok(()) } else { self.writer.write(&names.head_bias(), &biases) }
    }

    /// Writes the end of a model whose head is the embedding: these weights of the final norm, in the dense model's
    /// terms, times `gain`, and what else there is as it was. The factor of the logits is not in the tensors.
    ///
    /// # Errors
    /// As [`Pass::copy`].
    pub fn write_tied_end(&mut self, final_norm: &[f32], gain: f64) -> Result<()> {
        let config = self.config;
        let names = Names::of(config);
        // A head that is the embedding grows with what makes up for the factor of embedded tokens.
        let grown = f64::from(config.embedding_scale) / f64::from(self.job.output.embedding_scale)
            * f64::from(self.writer.stream_scale());
        let gain = (gain / (grown * f64::from(config.logit_scale))) as f32;
        let weights: Vec<f32> = final_norm.iter().map(|weight| weight * gain).collect();
        if !weights.is_empty() {
            self.writer.norm_weight(&names.final_norm(), &weights)?;
        }
        let others = [format!("{}.bias", names.final_norm()), names.head_bias(), names.head()];
        let others: Vec<TensorSpec> = config.tensors().into_iter().filter(|spec| others.contains(&spec.name)).collect();
        others.into_iter().try_for_each(|spec| self.copy(&spec, &spec.name))
    }

    /// Begins to read the weights of some layers, ahead of [`Pass::linears`], which takes them in this order.
    pub fn read_ahead<'scope>(&mut self, scope: &'scope Scope<'scope, '_>, layers: Range<usize>, fused: bool)
    where
        'a: 'scope,
    {
        self.ahead = Some(ReadAhead::start(scope, self.job.model, layers, fused));
    }

    /// The weights of the next step, one after the other, with the norms in them where the method wants that.
    pub fn linears(&self, step: Step) -> impl Iterator<Item = Result<Linear>> {
        step.linears().map(|_| {
            let ahead = self.ahead.as_ref().ok_or_else(|| Error::shape("read ahead", "not begun"))?;
            Linear::upload(self.gpu, &ahead.next()?)
        })
    }

    /// Writes a tensor of the output as another of the model is stored.
    ///
    /// # Errors
    /// [`Error::BadTensor`], [`Error::Read`], [`Error::Write`].
    pub fn copy(&mut self, from: &TensorSpec, name: &str) -> Result<()> {
        let rows = 0..self.job.model.store.whole(from)?.rows;
        self.copy_rows(from, rows, name)
    }

    /// Writes some rows of a tensor of the model to one of the output; all dimensions but the last one count rows.
    ///
    /// # Errors
    /// As [`Pass::copy`].
    pub fn copy_rows(&mut self, from: &TensorSpec, rows: Range<usize>, name: &str) -> Result<()> {
        self.copy_as(from, rows, name, |values, _| values)
    }

    /// Writes what a tensor in MXFP4 has of some experts, as it is stored.
    ///
    /// # Errors
    /// As [`Pass::copy`].
    pub fn copy_mxfp4(&mut self, from: &TensorSpec, experts: impl IntoIterator<Item = usize>) -> Result<()> {
        let parts = from.in_mxfp4().ok_or_else(|| Error::shape("copy", format!("{} in MXFP4", from.name)))?;
        for expert in experts {
            let stored = self.job.model.store.stored_mxfp4(from, expert)?;
            parts.iter().zip(stored).try_for_each(|(part, bytes)| self.writer.bytes(&part.name, &bytes))?;
        }
        Ok(())
    }

    /// Writes some columns of a tensor, or some values of a vector, as it is stored.
    ///
    /// # Errors
    /// As [`Pass::copy`].
    pub fn copy_columns(&mut self, from: &TensorSpec, columns: &[usize]) -> Result<()> {
        let rows = 0..self.job.model.store.whole(from)?.rows;
        self.copy_as(from, rows, &from.name, |values, cols| {
            values.chunks_exact(cols).flat_map(|row| columns.iter().map(|&col| row[col])).collect()
        })
    }

    /// Writes what `map` makes of some rows of a tensor, given how many columns these have.
    fn copy_as(
        &mut self,
        from: &TensorSpec,
        rows: Range<usize>,
        name: &str,
        map: impl Fn(Vec<f32>, usize) -> Vec<f32>,
    ) -> Result<()> {
        if self.writer.is_idle() {
            return Ok(());
        }
        let stored = self.job.model.store.whole(from)?;
        let together = (COPIED / stored.cols.max(1)).max(1);
        rows.clone().step_by(together).try_for_each(|first| {
            let rows = first..rows.end.min(first + together);
            self.writer.write(name, &map(stored.rows_f32(rows)?, stored.cols))
        })
    }

    /// Records what a step on the CPU took, for traces.
    pub fn timed(&self, step: &'static str, began: Instant) {
        self.job.progress.timed(step, began);
    }
}

/// Says in an error of numbers which part of the model it came from.
///
/// # Errors
/// That of `result`.
pub fn located<T>(place: impl Display, result: Result<T>) -> Result<T> {
    result.map_err(|error| {
        if let Error::Numerical(reason) = error { Error::Numerical(format!("{place}: {reason}")) } else { error }
    })
}
