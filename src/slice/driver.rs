//! The loop over the layers: the weights of half a layer on the GPU at a time, written out as soon as they are done.

use std::{ops::Range, time::Instant};

use faer::Mat;

use super::{
    calibrate::Covariance,
    fuse,
    memory::MemoryPlan,
    output::Output,
    plan::{Options, Orientation, Plan},
    residual::Residual,
    rotate::Rotation,
    snapshot::{Site, Snapshot},
};
use crate::{
    checkpoint::OutputDirectory,
    error::{Error, Result},
    gpu::{Gpu, Matrix},
    linalg::random_orthogonal,
    model::{
        Batch, Config, Half, HostEnds, HostLayer, HostMatrix, LayerWeights, Linear, Model, Names,
        architecture::{Position, Space},
        halves, plan_batches,
    },
    progress::Progress,
};

/// What to slice, and how.
pub struct Job<'a> {
    pub model: &'a Model,
    /// The calibration sequences.
    pub rows: &'a [Vec<u32>],
    pub options: &'a Options,
    pub plan: &'a Plan,
    pub memory: MemoryPlan,
    /// Where the tensors go, and, beside them, what is needed to go on.
    pub directory: &'a OutputDirectory,
    pub progress: &'a dyn Progress,
}

/// Slices `model` as planned, from the signals of the calibration sequences `rows`, into tensors in `directory`, in one go and with all
/// residuals on the GPU.
///
/// # Errors
/// As [`Job::run`].
pub fn slice(
    gpu: &Gpu,
    model: &Model,
    rows: &[Vec<u32>],
    options: &Options,
    plan: &Plan,
    directory: &OutputDirectory,
    progress: &dyn Progress,
) -> Result<Vec<Site>> {
    let memory = MemoryPlan::unlimited(options);
    Ok(Job { model, rows, options, plan, memory, directory, progress }.run(gpu, None, |_| Ok(true))?.sites)
}

impl Job<'_> {
    /// Slices all layers, or those that are left behind `from`. Whenever something is finished and durable, `commit` gets what is needed to go on
    /// from there, and says whether to go on now.
    ///
    /// # Errors
    /// [`Error::BadTensor`], [`Error::Numerical`] if a signal is not finite or a solve fails its check, [`Error::Write`], [`Error::Interrupted`],
    /// [`Error::BadFile`] if what was committed is damaged, those of `commit`, and whatever the GPU reports.
    pub fn run(&self, gpu: &Gpu, from: Option<&Snapshot>, mut commit: impl FnMut(&Snapshot) -> Result<bool>) -> Result<Snapshot> {
        let config = self.model.config();
        let layers = config.num_hidden_layers;
        if from.is_some_and(|from| !from.fits(config, self.plan)) {
            return Err(Error::bad_file(self.directory.path(), "what was kept of it does not fit this model; --force starts over"));
        }
        let batches = plan_batches(gpu, config, self.rows, self.memory.batch)?;
        let sites = 1 + layers * halves(config).len();
        let done = from.map_or(0, |from| from.sites.len());
        self.progress.begin("slice", ((sites - done) * (batches.len() + 1)) as u64);

        let ends = self.model.store.ends()?;
        let tokens = |range: &Range<usize>| self.rows[range.clone()].iter().map(Vec::len).sum();
        let held = if from.is_some_and(|from| from.layers == layers) { Vec::new() } else { batches.iter().map(tokens).collect() };
        let residual = Residual::new(self.directory, self.memory.placement, config.hidden_size, held);
        let output = Output::new(gpu, config, self.options.dtype, self.plan, self.directory, from.map(|from| from.layers))?;
        let mut driver = Driver { gpu, job: self, config, batches, residual, output, sites: Vec::new() };
        let (mut snapshot, mut rotation) = match from {
            Some(from) => {
                let behind = config.hidden_size * from.width;
                let (residual, values) = driver.residual.resume(gpu, from.file, behind, from.checksum)?;
                driver.residual = residual;
                driver.sites = from.sites.clone();
                (from.clone(), Rotation::restore(gpu, &values, config.hidden_size, from.width)?)
            }
            None => {
                let rotation = driver.embeddings(&ends)?;
                let snapshot = driver.snapshot(0, &rotation)?;
                if !commit(&snapshot)? {
                    return Ok(snapshot);
                }
                (snapshot, rotation)
            }
        };
        let rope_table = self.model.rope_table(gpu, self.rows.iter().map(Vec::len).max().unwrap_or(0))?;
        for layer in snapshot.layers..layers {
            let weights = self.model.store.layer(layer)?;
            for half in halves(config) {
                rotation = driver.half(layer, *half, &weights, rotation, rope_table.as_ref())?;
            }
            driver.output.head_norms(layer, &weights)?;
            if layer + 1 == layers {
                driver.residual.clear();
            }
            snapshot = driver.snapshot(layer + 1, &rotation)?;
            if !commit(&snapshot)? {
                return Ok(snapshot);
            }
        }
        driver.write_head(&ends, &rotation)?;
        driver.output.finish()?;
        Ok(snapshot)
    }
}

struct Driver<'a> {
    gpu: &'a Gpu,
    job: &'a Job<'a>,
    config: &'a Config,
    batches: Vec<Range<usize>>,
    residual: Residual,
    output: Output<'a>,
    sites: Vec<Site>,
}

impl Driver<'_> {
    fn batch(&self, index: usize) -> Result<Batch> {
        Batch::new(self.gpu, &self.job.rows[self.batches[index].clone()].iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    /// The residual of the embeddings, in the original basis, their axes, and the rotated tables written.
    fn embeddings(&mut self, ends: &HostEnds) -> Result<Rotation> {
        self.each_part(&ends.embedding, |driver, first, part| {
            driver.each_residual(first > 0, |gpu, batch, x| gpu.embed(&batch.ids, first, part, x, false))
        })?;
        if let (Some(positions), Position::Learned { offset, .. }) = (&ends.positions, self.config.architecture.position) {
            self.each_part(positions, |driver, first, part| {
                driver.each_residual(true, |gpu, batch, x| gpu.embed_positions(&batch.positions, first, offset, part, x))
            })?;
        }
        let mut covariance = Covariance::new(self.config.hidden_size);
        for index in 0..self.batches.len() {
            let x = self.residual.load(self.gpu, index)?;
            covariance.add(self.gpu, &x)?;
            self.residual.store(self.gpu, index, x, true)?;
            self.job.progress.advance(1)?;
        }
        let rotation = self.axes(None, covariance, self.job.plan.width)?;
        let names = Names::of(self.config);
        let tables = [(Some(names.embedding()), Some(&ends.embedding)), (names.positions(), ends.positions.as_ref())];
        for (name, table) in tables.into_iter().filter_map(|(name, table)| Some((name?, table?))) {
            self.each_part(table, |driver, _, part| driver.output.matrix(&name, &rotation.rows(driver.gpu, part)?))?;
        }
        Ok(rotation)
    }

    /// Adds to the residual of each batch, which is zero at first.
    fn each_residual(&mut self, begun: bool, add: impl Fn(&Gpu, &Batch, &Matrix) -> Result<()>) -> Result<()> {
        for index in 0..self.batches.len() {
            let batch = self.batch(index)?;
            let x = if begun { self.residual.load(self.gpu, index)? } else { self.gpu.zeros(batch.tokens, self.config.hidden_size)? };
            add(self.gpu, &batch, &x)?;
            self.residual.store(self.gpu, index, x, false)?;
        }
        self.residual.turn();
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

    /// Runs half a layer from the signals in `rotation`'s coordinates, and slices its weights. The residual stays in the original basis; hands
    /// over the rotation into the axes of what it is now.
    fn half(&mut self, layer: usize, half: Half, host: &HostLayer, rotation: Rotation, rope_table: Option<&Matrix>) -> Result<Rotation> {
        let (gpu, config) = (self.gpu, self.config);
        let mut weights = self.weights(half, host, &rotation)?;
        let last = half == halves(config)[halves(config).len() - 1];
        let over = last && layer + 1 == config.num_hidden_layers;
        let mut covariance = Covariance::new(config.hidden_size);
        for index in 0..self.batches.len() {
            let batch = self.batch(index)?;
            let x = rotation.rows(gpu, &self.residual.load(gpu, index)?)?;
            let y = batch.context(gpu, config, layer, rope_table).half(&weights, half, x)?;
            covariance.add(gpu, &y)?;
            if !over {
                self.residual.store(gpu, index, y, last)?;
            }
            self.job.progress.advance(1)?;
        }
        self.residual.turn();
        let (reads, writes): (Vec<Linear>, Vec<Linear>) = weights.linears.drain(..).partition(|linear| linear.spec.reads == Space::Residual);
        drop(weights);
        let began = Instant::now();
        for linear in reads {
            self.output.linear(layer, &linear)?;
        }
        self.job.progress.timed("write weights", began);
        let widths = self.job.plan.config.widths(layer);
        let next = self.axes(Some(layer), covariance, if half.mlp { widths.output } else { widths.mlp_input })?;
        let began = Instant::now();
        for mut linear in writes {
            linear.weight = next.columns(gpu, &linear.weight)?;
            linear.bias = linear.bias.as_ref().map(|bias| next.rows(gpu, bias)).transpose()?;
            self.output.linear(layer, &linear)?;
        }
        self.output.matrix(&Names::of(config).shortcut(layer, half.shortcut), &rotation.shortcut(gpu, &next)?)?;
        self.job.progress.timed("write weights", began);
        Ok(next)
    }

    /// The fused weights of half a layer, one after the other, those that read the residual in `rotation`'s coordinates.
    fn weights(&self, half: Half, host: &HostLayer, rotation: &Rotation) -> Result<LayerWeights> {
        let began = Instant::now();
        let mut linears = Vec::new();
        for stored in host.linears.iter().filter(|linear| half.has(linear.spec.role)) {
            let mut linear = Linear::upload(self.gpu, &fuse::linear(self.config, host, stored)?)?;
            if linear.spec.reads == Space::Residual {
                linear.weight = rotation.rows(self.gpu, &linear.weight)?;
            }
            linears.push(linear);
        }
        let mut shortcuts = [None, None];
        shortcuts[half.shortcut] = Some(rotation.back().clone());
        let weights = LayerWeights::fused(self.gpu, linears, host.head_norms.as_ref(), shortcuts);
        self.job.progress.timed("read and fuse weights", began);
        weights
    }

    /// The rotation into the first `width` principal axes of a signal, which is noted down as the next site.
    fn axes(&mut self, layer: Option<usize>, covariance: Covariance, width: usize) -> Result<Rotation> {
        let began = Instant::now();
        let eigen = covariance.principal_axes(self.gpu).map_err(|error| match (error, layer) {
            (Error::Numerical(reason), Some(layer)) => Error::Numerical(format!("layer {layer}: {reason}")),
            (Error::Numerical(reason), None) => Error::Numerical(format!("embeddings: {reason}")),
            (other, _) => other,
        })?;
        self.job.progress.timed("eigensolve", began);
        let kept = eigen.vectors.subcols(0, width);
        let options = self.job.options;
        let rotation = match options.orientation {
            Orientation::Pca => Rotation::upload(self.gpu, kept, width)?,
            Orientation::Random => {
                let turned: Mat<f64> = kept * random_orthogonal(width, options.seed, self.sites.len() as u64);
                Rotation::upload(self.gpu, turned.as_ref(), width)?
            }
        };
        self.sites.push(Site {
            layer,
            kept_energy: eigen.kept_energy(self.job.plan.width),
            eigen_residual: eigen.residual,
            orthogonality: eigen.orthogonality,
        });
        self.job.progress.advance(1)?;
        Ok(rotation)
    }

    /// Makes everything durable that going on from here needs.
    fn snapshot(&mut self, layers: usize, rotation: &Rotation) -> Result<Snapshot> {
        let began = Instant::now();
        self.output.sync()?;
        let (file, checksum) = self.residual.save(&rotation.values(self.gpu)?)?;
        self.job.progress.timed("save the state", began);
        Ok(Snapshot { layers, sites: self.sites.clone(), width: rotation.width(), file, checksum })
    }

    fn write_head(&mut self, ends: &HostEnds, rotation: &Rotation) -> Result<()> {
        let names = Names::of(self.config);
        let mut biases = Vec::new();
        for rows in self.job.memory.parts(self.gpu, &ends.head) {
            let (values, bias) = fuse::head_rows(ends, rows.clone())?;
            let part = self.gpu.upload(&values, rows.len(), ends.head.cols)?;
            self.output.matrix(&names.head(), &rotation.rows(self.gpu, &part)?)?;
            biases.extend(bias.into_iter().flatten());
        }
        if biases.is_empty() { Ok(()) } else { self.output.write(&names.head_bias(), &biases) }
    }
}
