//! What every way of slicing does: sequences in batches, embeddings into residuals, fused weights onto the GPU, axes into rotations, tensors out.

use std::{fmt::Display, ops::Range, thread::Scope, time::Instant};

use faer::{Mat, MatRef};

use super::{
    read_ahead::ReadAhead, covariance::Covariance, driver::Job, fuse, stock::StockForm, options::Orientation, output::Output, residual::Residual, rotate::Rotation,
    snapshot::Site,
};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Matrix},
    linalg::random_orthogonal,
    model::{Batch, Config, HostEnds, HostMatrix, Linear, Names, Step, architecture::Position, plan_batches},
};

/// One pass over a model.
pub struct Pass<'a> {
    pub gpu: &'a Gpu,
    pub job: &'a Job<'a>,
    /// Of the dense model.
    pub config: &'a Config,
    /// Sequences of each batch.
    pub batches: Vec<Range<usize>>,
    pub output: Output<'a>,
    pub sites: Vec<Site>,
    ahead: Option<ReadAhead>,
}

impl<'a> Pass<'a> {
    /// Begins, or goes on behind so many layers, in which `sites` were found.
    ///
    /// # Errors
    /// As [`Output::new`]; [`crate::Error::Shape`] if a sequence is too long for the GPU.
    pub fn new(gpu: &'a Gpu, job: &'a Job<'a>, layers: Option<usize>, sites: Vec<Site>) -> Result<Self> {
        let config = job.model.config();
        let batches = plan_batches(gpu, config, job.rows, job.memory.batch)?;
        let lift = StockForm::of(gpu, config, job.plan)?;
        let output = Output::new(gpu, config, job.plan, job.directory, lift, layers)?;
        Ok(Self { gpu, job, config, batches, output, sites, ahead: None })
    }

    /// A residual `width` wide of all sequences, of no values yet.
    pub fn residual(&self, name: &str, width: usize) -> Residual {
        let tokens = |range: &Range<usize>| self.job.rows[range.clone()].iter().map(Vec::len).sum();
        Residual::new(self.job.directory, name, self.job.memory.placement, width, self.batches.iter().map(tokens).collect())
    }

    /// The sequences of a batch.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn batch(&self, index: usize) -> Result<Batch> {
        Batch::new(self.gpu, &self.job.rows[self.batches[index].clone()].iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    /// The residual behind the embeddings, in the original basis.
    ///
    /// # Errors
    /// [`crate::Error::BadTensor`], [`crate::Error::Write`], whatever the GPU reports.
    pub fn embed(&mut self, ends: &HostEnds, residual: &mut Residual) -> Result<()> {
        self.each_part(&ends.embedding, |pass, first, part| {
            pass.each_residual(residual, first > 0, |gpu, batch, x| gpu.embed(&batch.ids, first, part, x, false))
        })?;
        if let (Some(positions), Position::Learned { offset, .. }) = (&ends.positions, self.config.architecture.attention.position) {
            self.each_part(positions, |pass, first, part| {
                pass.each_residual(residual, true, |gpu, batch, x| gpu.embed_positions(&batch.positions, first, offset, part, x))
            })?;
        }
        Ok(())
    }

    /// Adds to the residual of each batch, which is zero at first.
    fn each_residual(&self, residual: &mut Residual, begun: bool, add: impl Fn(&Gpu, &Batch, &Matrix) -> Result<()>) -> Result<()> {
        for index in 0..self.batches.len() {
            let batch = self.batch(index)?;
            let x = if begun { residual.load(self.gpu, index)? } else { self.gpu.zeros(batch.tokens, self.config.hidden_size)? };
            add(self.gpu, &batch, &x)?;
            residual.store(self.gpu, index, x, false)?;
        }
        residual.turn();
        Ok(())
    }

    /// Writes the embeddings in `rotation`'s coordinates.
    ///
    /// # Errors
    /// As [`Output::write`].
    pub fn write_tables(&mut self, ends: &HostEnds, rotation: &Rotation) -> Result<()> {
        let names = Names::of(self.config);
        let tables = [(Some(names.embedding()), Some(&ends.embedding)), (names.positions(), ends.positions.as_ref())];
        for (name, table) in tables.into_iter().filter_map(|(name, table)| Some((name?, table?))) {
            self.each_part(table, |pass, _, part| pass.output.table(&name, &rotation.rows(pass.gpu, part)?))?;
        }
        Ok(())
    }

    /// Goes through an embedding's fused rows, as many at a time as planned.
    fn each_part(&mut self, table: &HostMatrix, mut each: impl FnMut(&mut Self, usize, &Matrix) -> Result<()>) -> Result<()> {
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
    pub fn each_head_part(&mut self, ends: &HostEnds, mut each: impl FnMut(&mut Self, &Matrix, Option<Vec<f32>>) -> Result<()>) -> Result<()> {
        for rows in self.job.memory.parts(self.gpu, &ends.head) {
            let (values, bias) = fuse::head_rows(ends, rows.clone())?;
            let part = self.gpu.upload(&values, rows.len(), ends.head.cols)?;
            each(self, &part, bias)?;
        }
        Ok(())
    }

    /// Writes the head as `map` makes it of its rows and biases, and the final norm where the output has one.
    ///
    /// # Errors
    /// As [`Pass::each_head_part`] and [`Output::write`].
    pub fn write_head(&mut self, ends: &HostEnds, map: impl Fn(&Gpu, &Matrix, Option<Vec<f32>>) -> Result<(Matrix, Option<Vec<f32>>)>) -> Result<()> {
        let names = Names::of(self.config);
        let mut biases = Vec::new();
        self.each_head_part(ends, |pass, part, bias| {
            let (part, bias) = map(pass.gpu, part, bias)?;
            biases.extend(bias.into_iter().flatten());
            pass.output.head(&names.head(), &part)
        })?;
        self.output.norm(&names.final_norm())?;
        biases.iter_mut().for_each(|bias| *bias /= self.config.logit_scale);
        if biases.is_empty() { Ok(()) } else { self.output.write(&names.head_bias(), &biases) }
    }

    /// Begins to read the weights of some layers, ahead of [`Pass::linears`], which takes them in this order.
    pub fn read_ahead<'scope>(&mut self, scope: &'scope Scope<'scope, '_>, layers: Range<usize>)
    where
        'a: 'scope,
    {
        self.ahead = Some(ReadAhead::start(scope, self.job.model, layers));
    }

    /// The fused weights of the next step, one after the other.
    pub fn linears(&self, step: Step) -> impl Iterator<Item = Result<Linear>> {
        step.linears().map(|_| {
            let ahead = self.ahead.as_ref().ok_or_else(|| Error::shape("read ahead", "not begun"))?;
            Linear::upload(self.gpu, &ahead.next()?)
        })
    }

    /// The rotation into the first `width` of some orthonormal columns, turned at random if that is asked for; `stream` tells it from others.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn rotation(&self, axes: MatRef<'_, f64>, width: usize, stream: usize) -> Result<Rotation> {
        let (kept, options) = (axes.subcols(0, width), self.job.options);
        match options.orientation {
            Orientation::Pca => Rotation::upload(self.gpu, kept, width),
            Orientation::Random => {
                let turned: Mat<f64> = kept * random_orthogonal(width, options.seed, stream as u64);
                Rotation::upload(self.gpu, turned.as_ref(), width)
            }
        }
    }

    /// The rotation into the first `width` principal axes of a signal, which is noted down as the next site, behind a layer or the embeddings.
    ///
    /// # Errors
    /// [`Error::Numerical`] if the covariance is not finite or the solve fails its check; whatever the GPU reports.
    pub fn axes(&mut self, layer: Option<usize>, covariance: Covariance, width: usize) -> Result<Rotation> {
        let began = Instant::now();
        let place = layer.map_or_else(|| "embeddings".into(), |layer| format!("layer {layer}"));
        let eigen = located(place, covariance.principal_axes(self.gpu))?;
        self.timed("eigensolve", began);
        let rotation = self.rotation(eigen.vectors.as_ref(), width, self.sites.len())?;
        let kept_energy = eigen.kept_energy(self.job.plan.width);
        self.sites.push(Site { layer, kept_energy, eigen_residual: eigen.residual, orthogonality: eigen.orthogonality });
        Ok(rotation)
    }

    /// What a step on the CPU took, for traces.
    pub fn timed(&self, step: &'static str, began: Instant) {
        self.job.progress.timed(step, began);
    }
}

/// Which part of the model an error of its numbers came from.
pub fn located<T>(place: impl Display, result: Result<T>) -> Result<T> {
    result.map_err(|error| if let Error::Numerical(reason) = error { Error::Numerical(format!("{place}: {reason}")) } else { error })
}
