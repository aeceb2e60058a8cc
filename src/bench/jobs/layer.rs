//! One decoder layer, dense or sliced, as the model's own forward pass runs it.

use faer::Mat;
use nalgebra::DMatrix;

use super::{
    job::{Job, ROUNDOFF, compare, sizes},
    kernels::some_tokens,
};
use crate::{
    bench::{
        row::{Bound, Unit, Work},
        values::Values,
        workload::LayerSlicing,
    },
    error::{Error, Result},
    gpu::{ElementType, Gpu},
    model::{
        BlockWeights, Config, LayerCache, LayerContext, LayerSpec, LayerWeights, LayerWidths, Linear, NormWeights,
        Rope, Shape, Slicing, StepWeights,
        architecture::{BlockKind, Role, Weight},
    },
    ops::{AttentionShape, HeadSpan, Norm, Sequence},
    reference,
};

/// A layer whose weights are known without being held.
struct Layer {
    config: Config,
    linears: Vec<(&'static Weight, Role, Values, Option<Values>)>,
    /// Weight and bias of the norms, alike in both steps; none once fused.
    norm: Option<(Values, Option<Values>)>,
    /// Past each step.
    shortcuts: [Option<Values>; 2],
    width: usize,
}

pub fn layer<'a>(gpu: &'a Gpu, shape: &str, tokens: usize, past: usize, slicing: LayerSlicing) -> Result<Job<'a>> {
    let layer = Layer::new(shape, slicing)?;
    let config = layer.config.clone();
    let kv_width = layer.spec().kv_width();
    let (x, cached) = (Values::signal(1, tokens, layer.width), Values::signal(2, past + tokens, kv_width));
    let weights = layer.upload(gpu)?;
    let positions = gpu.upload_u32(&(past..past + tokens).map(|position| position as u32).collect::<Vec<_>>())?;
    let table = |rope: &Rope| gpu.upload(&rope.table(past + tokens), past + tokens, 2 * rope.inverse_frequencies.len());
    let rope_tables = config.ropes.iter().map(table).collect::<Result<Vec<_>>>()?;
    let cache = if past > 0 { Some(LayerCache::Keys(cached.upload(gpu)?)) } else { None };
    let sequences = [Sequence { first: 0, tokens, kv_row: 0, position: past }];
    let sizes =
        sizes([("tokens", tokens), ("past", past), ("width", layer.width), ("hidden_size", config.hidden_size)]);
    let work = layer.work(tokens, past);
    let input = x.upload(gpu)?;
    let inner = layer.spec().intermediate_size;
    // Where there are no shortcuts, the result takes the place of the input. The norm bounds what the weights see,
    // however often that happens.
    let execute = move || {
        let (positions, rope_tables, cache) = (&positions, rope_tables.as_slice(), cache.as_ref());
        let context =
            LayerContext { gpu, config: &config, layer: 0, positions, rope_tables, sequences: &sequences, cache };
        context.forward(&weights, input.clone())
    };
    let actual = gpu.download(&execute()?)?;

    let chosen = some_tokens(tokens);
    let expected = layer.twin(&x, &cached, past, &chosen)?;
    let scale = expected.norm() / (expected.len() as f64).sqrt();
    let triples = (0..expected.nrows()).flat_map(|row| (0..expected.ncols()).map(move |col| (row, col)));
    let triples =
        triples.map(|(row, col)| (f64::from(actual[chosen[row] * layer.width + col]), expected[(row, col)], scale));
    // Each of about eight stages adds the rounding of its sums; results a few times larger than their root mean square
    // have a few times more.
    let allowed = 32.0 * ROUNDOFF * (inner as f64).sqrt();
    let check = compare("sampled tokens, by the root mean square of the results", allowed, triples);
    let decodes = tokens == 1;
    Ok(Job {
        sizes,
        unit: Unit::Tokens,
        bound: if decodes { Bound::Bandwidth } else { Bound::Compute },
        work,
        check,
        configuration: None,
        on_gpu: true,
        execute: Box::new(move || execute().map(drop)),
    })
}

impl Layer {
    fn new(shape: &str, slicing: LayerSlicing) -> Result<Self> {
        let mut config = Shape::named(shape)?.config(Some(1))?;
        let whole = config.hidden_size;
        let width = if slicing == LayerSlicing::Dense { whole } else { whole / 4 * 3 };
        if slicing != LayerSlicing::Dense {
            config.slicing = Some(Slicing {
                method: "slicegpt".into(),
                norm_width: whole,
                layers: vec![LayerWidths::new(width, width, width)],
                sparsity: 0.25,
                round_interval: 8,
                basis: "per-block".into(),
                refit: "none".into(),
                final_orientation: "pca".into(),
                seed: 0,
                calibration_sha256: String::new(),
            });
        }
        let mut seed = 100;
        let mut next = || {
            seed += 1;
            seed
        };
        let row = |seed, cols, scale| Values { seed, rows: 1, cols, scale, element: ElementType::F32 };
        let roles = config.architecture.weights().flat_map(|spec| spec.holds.iter().map(move |role| (spec, *role)));
        let linears = roles.map(|(spec, role)| {
            let (rows, cols) = config.linear_shape(role, 0);
            let weight = Values::weight(next(), rows, cols, ElementType::F16);
            (spec, role, weight, config.linear_bias(spec).then(|| row(next(), rows, 0.1)))
        });
        let linears = linears.collect();
        let norm = (!config.fused() && config.norm_affine)
            .then(|| (row(next(), whole, 2.0), config.norm_has_bias().then(|| row(next(), whole, 0.1))));
        let shortcut =
            |seed| (slicing == LayerSlicing::Sliced).then(|| Values::weight(seed, width, width, ElementType::F16));
        let shortcuts = [shortcut(next()), shortcut(next())];
        Ok(Self { linears, norm, shortcuts, width, config })
    }

    fn upload(&self, gpu: &Gpu) -> Result<LayerWeights> {
        let optional = |values: &Option<Values>| values.as_ref().map(|values| values.upload(gpu)).transpose();
        let norm = || match &self.norm {
            Some((weight, bias)) => {
                Ok::<_, Error>(Some(NormWeights { weight: weight.upload(gpu)?, bias: optional(bias)? }))
            }
            None => Ok(None),
        };
        let linear = |(spec, role, weight, bias): &(&'static Weight, Role, Values, Option<Values>)| {
            Ok(Linear { spec, role: *role, weight: weight.upload(gpu)?, bias: optional(bias)? })
        };
        let mut steps = Vec::new();
        for (step, shortcut) in self.config.steps().zip(&self.shortcuts) {
            let mut blocks = Vec::new();
            for spec in step.blocks {
                let own = |linear: &&(&'static Weight, Role, Values, Option<Values>)| {
                    spec.weights.iter().any(|weight| weight.name == linear.0.name)
                };
                let linears = self.linears.iter().filter(own).map(linear).collect::<Result<_>>()?;
                let fused = self.config.fused();
                let (norm, norm_after, head_norms, sinks) = (norm()?, None, None, None);
                let (delta, adapters) = (None, Vec::new());
                blocks.push(BlockWeights {
                    spec,
                    fused,
                    norm,
                    norm_after,
                    head_norms,
                    sinks,
                    delta,
                    linears,
                    adapters,
                });
            }
            steps.push(StepWeights { blocks, shortcut: optional(shortcut)? });
        }
        Ok(LayerWeights { steps })
    }

    fn spec(&self) -> &LayerSpec {
        &self.config.layers[0]
    }

    /// Every weight is read once, keys and values of the past too; what is small beside them is not counted.
    fn work(&self, tokens: usize, past: usize) -> Work {
        let spec = self.spec();
        let matrices = self.linears.iter().map(|(_, _, weight, _)| weight).chain(self.shortcuts.iter().flatten());
        let parameters: usize = matrices.map(|weight| weight.rows * weight.cols).sum();
        let seen = tokens * past + tokens * (tokens + 1) / 2;
        let kv = spec.kv_width() * (past + tokens);
        Work {
            flops: 2.0 * (tokens * parameters) as f64 + 4.0 * (seen * spec.heads_width()) as f64,
            bytes: (2 * parameters + 4 * kv + 4 * 2 * tokens * self.width) as f64,
            items: tokens as f64,
        }
    }

    /// What the layer makes of the `chosen` tokens of `x`, in f64: keys and values of all tokens, the rest of those
    /// alone.
    fn twin(&self, x: &Values, cached: &Values, past: usize, chosen: &[usize]) -> Result<DMatrix<f64>> {
        let config = &self.config;
        let spec = self.spec();
        let (h, heads, kv_heads) = (spec.head_dim, spec.heads, spec.kv_heads);
        let all = DMatrix::from_fn(x.rows, x.cols, |row, col| f64::from(x.at(row, col)));
        let pick = |matrix: &DMatrix<f64>| matrix.select_rows(chosen);
        let input = self.norm(&all);
        let positions: Vec<u32> = (past..past + x.rows).map(|position| position as u32).collect();
        let span = |column, heads| HeadSpan { column, heads };

        let (mut keys, values) = (self.role(Role::Key, &input)?, self.role(Role::Value, &input)?);
        self.rotate(&mut keys, span(0, kv_heads), &positions);
        let mut queries = self.role(Role::Query, &pick(&input))?;
        self.rotate(&mut queries, span(0, heads), &chosen.iter().map(|&token| positions[token]).collect::<Vec<_>>());
        let width = kv_heads * h;
        let kv = DMatrix::from_fn(past + x.rows, 2 * width, |row, col| {
            match (row.checked_sub(past), col.checked_sub(width)) {
                (None, _) => f64::from(cached.at(row, col)),
                (Some(token), None) => keys[(token, col)],
                (Some(token), Some(col)) => values[(token, col)],
            }
        });
        let shape = AttentionShape {
            q: span(0, heads),
            k: span(0, kv_heads),
            v: span(width, kv_heads),
            ..spec.attention_shape()
        };
        let alone =
            |(row, &token): (usize, &usize)| Sequence { first: row, tokens: 1, kv_row: 0, position: past + token };
        let blocks: Vec<Sequence> = chosen.iter().enumerate().map(alone).collect();
        let attended = reference::attention(&shape, &queries, &kv, &blocks);
        let middle = self.carried(0, pick(&all)) + self.role(Role::Output, &attended)?;

        let input = self.norm(&middle);
        let mut inner = self.role(Role::Up, &input)?;
        let gated =
            config.steps().any(|step| step.blocks.iter().any(|block| block.kind == BlockKind::Mlp { gated: true }));
        if gated {
            let gate = self.role(Role::Gate, &input)?;
            inner = DMatrix::from_fn(gate.nrows(), 2 * gate.ncols(), |row, col| match col.checked_sub(gate.ncols()) {
                None => gate[(row, col)],
                Some(col) => inner[(row, col)],
            });
        }
        let hidden = reference::activation(config.activation, gated, &inner);
        Ok(self.carried(1, middle) + self.role(Role::Down, &hidden)?)
    }

    fn norm(&self, x: &DMatrix<f64>) -> DMatrix<f64> {
        let config = &self.config;
        let kind = if config.fused() { Norm::Rms } else { config.architecture.norm.kind };
        let wide = |values: &Values| values.rows(0..1).into_iter().map(f64::from).collect::<Vec<_>>();
        let (weight, bias) = match &self.norm {
            Some((weight, bias)) => (Some(wide(weight)), bias.as_ref().map(wide)),
            None => (None, None),
        };
        reference::norm(kind, x, weight.as_deref(), bias.as_deref(), config.hidden_size, f64::from(config.norm_eps))
    }

    fn rotate(&self, x: &mut DMatrix<f64>, span: HeadSpan, positions: &[u32]) {
        for rope in &self.config.ropes {
            let (head_dim, factor) = (self.spec().head_dim, f64::from(rope.attention_factor));
            reference::rope(x, span, head_dim, positions, &rope.inverse_frequencies, factor);
        }
    }

    fn role(&self, role: Role, x: &DMatrix<f64>) -> Result<DMatrix<f64>> {
        let found = self.linears.iter().find(|(_, held, ..)| *held == role);
        let (_, _, weight, bias) = found
            .ok_or_else(|| Error::shape("bench", format!("no {role:?} in {}", self.config.architecture.model_type)))?;
        let mut y = applied(weight, x);
        for (col, mut column) in y.column_iter_mut().enumerate() {
            column.add_scalar_mut(bias.as_ref().map_or(0.0, |bias| f64::from(bias.at(0, col))));
        }
        Ok(y)
    }

    fn carried(&self, step: usize, x: DMatrix<f64>) -> DMatrix<f64> {
        match &self.shortcuts[step] {
            Some(shortcut) => applied(shortcut, &x),
            None => x,
        }
    }
}

/// `x · wᵀ`.
fn applied(w: &Values, x: &DMatrix<f64>) -> DMatrix<f64> {
    let product = w.apply(&Mat::from_fn(x.nrows(), x.ncols(), |row, col| x[(row, col)]));
    DMatrix::from_fn(product.nrows(), product.ncols(), |row, col| product[(row, col)])
}
