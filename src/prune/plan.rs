//! What is asked of pruning, and the smaller model before it exists.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{
    choice::leaving,
    experts::experts_leaving,
    importance::{Aggregate, Importance},
};
use crate::{
    checkpoint::{Dtype, TensorPlan},
    error::{Error, Result},
    model::{Config, Experts, Kept, LayerSizes, LayerSpec, MIXTURE, TensorSpec},
    stream::Types,
};

/// Which groups may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Groups {
    Both,
    /// Attention heads alone.
    Attention,
    /// MLP channels alone.
    Mlp,
    /// Whole experts of mixtures, and nothing else.
    Experts,
    /// Coordinates of the residual stream, everywhere at once, and nothing else.
    Coordinates,
}

/// How to prune.
#[derive(Debug, Clone)]
pub struct Options {
    /// The share of the groups of the layers that may be cut that leaves.
    pub ratio: f64,
    /// The layers that may be cut.
    pub layers: Range<usize>,
    pub importance: Importance,
    pub aggregate: Aggregate,
    /// Whether all groups of all layers are ranked in one row.
    pub global: bool,
    /// Rounds, with new gradients in each.
    pub iterations: usize,
    pub groups: Groups,
    /// Whether what the groups matter is kept, to be written.
    pub keep_importances: bool,
    /// Of random importances.
    pub seed: u64,
    /// Types of the written tensors.
    pub dtype: Types,
    /// Tensors of experts in MXFP4 of which what is left stays as it is stored, where layers are alike.
    pub in_mxfp4: Vec<String>,
}

impl Options {
    /// The layers that may be cut where nobody says otherwise: all but the first eighth and the last sixteenth, rounded
    /// up: 4 to 29 of 32, as published. Of one layer or two, that leaves none, and all may be cut.
    pub fn usual_layers(count: usize) -> Range<usize> {
        let (first, last) = (count.div_ceil(8), count.div_ceil(16));
        if first + last < count { first..count - last } else { 0..count }
    }

    /// Checks that they make sense for a model.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check(&self, config: &Config) -> Result<()> {
        let (count, Range { start, end }) = (config.layers.len(), self.layers.clone());
        let usage = |reason: String| Err(Error::Usage(reason));
        match (self.groups == Groups::Experts, config.is_mixture()) {
            (true, false) => return usage("--experts: this model has none".into()),
            (false, true) if self.groups != Groups::Attention => return usage(MIXTURE.into()),
            (true, true) if self.iterations > 1 => return usage("--iterations: experts leave in one round".into()),
            _ => {}
        }
        if self.groups == Groups::Coordinates && self.iterations > 1 {
            return usage("--iterations: coordinates of the residual stream leave in one round".into());
        }
        if !(self.ratio > 0.0 && self.ratio < 1.0) {
            let flag = if self.groups == Groups::Experts { "--experts" } else { "--ratio" };
            return usage(format!("{flag} {}: expected a number between 0 and 1", self.ratio));
        }
        if end > count || start >= end {
            return usage(format!(
                "--layers {start}..{end}: expected some of the {count} layers of this model, such as 0..{count} or all"
            ));
        }
        if self.iterations == 0 {
            return usage("--iterations 0: expected at least one".into());
        }
        if config.fused() || config.pruned {
            return usage("this model is cut already; prune the original to another ratio instead".into());
        }
        if matches!(self.groups, Groups::Both | Groups::Attention) {
            let other = match config.is_mixture() {
                true => "--experts SHARE takes out whole experts",
                false => "--mlp prunes channels alone",
            };
            config.can_cut_heads().or_else(|error| usage(format!("{error}; {other}")))?;
        }
        Ok(())
    }

    /// What is left of a layer of these sizes if all layers lose as much.
    fn left(&self, layer: usize, spec: &LayerSpec) -> LayerSizes {
        let inside = self.layers.contains(&layer);
        if self.groups == Groups::Experts {
            let left = |experts: Experts| experts.count - if inside { experts_leaving(experts, self.ratio) } else { 0 };
            return LayerSizes { num_experts: spec.experts.map(left), ..LayerSizes::from(spec) };
        }
        if self.groups == Groups::Coordinates {
            return LayerSizes::from(spec);
        }
        let share = |wanted: bool| if wanted && inside { self.ratio } else { 0.0 };
        // In one round or several, the same number.
        let heads = self.groups != Groups::Mlp && spec.delta.is_none();
        let kv_heads = spec.kv_heads - leaving(spec.kv_heads, spec.kv_heads, spec.head_dim, share(heads));
        let channels =
            leaving(spec.intermediate_size, spec.intermediate_size, 1, share(self.groups != Groups::Attention));
        LayerSizes {
            num_attention_heads: kv_heads * (spec.heads / spec.kv_heads.max(1)),
            num_key_value_heads: kv_heads,
            intermediate_size: spec.intermediate_size - channels,
            ..LayerSizes::from(spec)
        }
    }
}

/// How many coordinates of the residual stream a ratio leaves.
fn width_left(config: &Config, ratio: f64) -> usize {
    let whole = config.hidden_size;
    whole - leaving(whole, whole, 1, ratio)
}

/// The ratio, in as few digits as it takes, that leaves the next width below this one that a model can have; and that
/// width.
fn other_ratio(config: &Config, width: usize) -> Option<(f64, usize)> {
    let below = (1..width).rev().take(256).find(|&width| config.with_coordinates(width).is_ok())?;
    let share = 1.0 - below as f64 / config.hidden_size as f64;
    (1..=6).map(|digits| 10f64.powi(digits)).find_map(|scale| {
        let near = [share * scale, (share * scale).floor(), (share * scale).ceil()];
        let ratio = near.map(|number| number.round() / scale).into_iter();
        ratio.map(|ratio| (ratio, below)).find(|(ratio, below)| width_left(config, *ratio) == *below)
    })
}

/// A pruned model before it exists.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Of the smaller model.
    pub config: Config,
    /// Every tensor, in the order of writing.
    pub tensors: Vec<TensorPlan>,
    pub parameters: u64,
    /// Those of the original in MXFP4 that are written as they are stored.
    pub in_mxfp4: Vec<String>,
}

impl Plan {
    /// What it comes to if all layers lose as much: what it is unless all groups are in one row.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is no checkpoint of such a model.
    pub fn guess(config: &Config, options: &Options) -> Result<Self> {
        if options.groups == Groups::Coordinates {
            let width = width_left(config, options.ratio);
            return Self::narrower(config, width, options).map_err(|error| match (error, other_ratio(config, width)) {
                (Error::Usage(reason), Some((ratio, width))) => {
                    Error::Usage(format!("{reason}: --ratio {ratio} leaves {width}"))
                }
                (error, _) => error,
            });
        }
        let left = config.layers.iter().enumerate().map(|(layer, spec)| options.left(layer, spec));
        // In one row, layers may come out alike or not: nothing is promised of the smaller one of both.
        let in_mxfp4 = if options.global { Vec::new() } else { options.in_mxfp4.clone() };
        Self::new(config, left.collect(), &Options { in_mxfp4, ..options.clone() })
    }

    /// Of what is kept of each layer.
    ///
    /// # Errors
    /// As [`Plan::guess`].
    pub fn of(config: &Config, kept: &[Kept], options: &Options) -> Result<Self> {
        Self::new(config, kept.iter().map(Kept::sizes).collect(), options)
    }

    /// Of a model with `width` coordinates of the residual stream.
    ///
    /// # Errors
    /// As [`Plan::guess`].
    pub fn narrower(config: &Config, width: usize, options: &Options) -> Result<Self> {
        Ok(Self::written(config, config.with_coordinates(width)?, options))
    }

    fn new(config: &Config, layers: Vec<LayerSizes>, options: &Options) -> Result<Self> {
        let smaller = match config.is_mixture() && options.groups == Groups::Experts {
            true => config.with_experts(&layers)?,
            false => config.resized(&config.with_layers(layers))?,
        };
        Ok(Self::written(config, smaller, options))
    }

    fn written(config: &Config, smaller: Config, options: &Options) -> Self {
        let dtypes = options.dtype.of_tensors(config, &smaller);
        // What transformers computes with in MXFP4 has as many experts in every layer.
        let in_mxfp4 = if smaller.pruned { Vec::new() } else { options.in_mxfp4.clone() };
        let plan = |spec: TensorSpec, dtype| TensorPlan { name: spec.name, shape: spec.shape, dtype };
        let of = |(spec, dtype): (TensorSpec, Dtype)| match spec.in_mxfp4().filter(|_| in_mxfp4.contains(&spec.name)) {
            Some(parts) => parts.map(|part| plan(part, Dtype::U8)).into(),
            None => vec![plan(spec, dtype)],
        };
        let tensors = smaller.tensors().into_iter().zip(dtypes).flat_map(of).collect();
        let parameters = smaller.parameters();
        let smaller = match &config.quantization {
            Some(section) if !in_mxfp4.is_empty() => smaller.quantized(section),
            _ => smaller,
        };
        Self { config: smaller, tensors, parameters, in_mxfp4 }
    }

    /// Bytes of all tensors.
    pub fn byte_len(&self) -> u64 {
        self.tensors.iter().map(TensorPlan::byte_len).sum()
    }
}
