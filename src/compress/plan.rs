//! What will be written, known before any work is done.

use serde::{Deserialize, Serialize};

use super::axis::{Axis, Goal};
use crate::{
    checkpoint::TensorPlan,
    error::{Error, Result},
    fit::TOLERANCE,
    model::{Config, Names, Resize, Step, TensorSpec},
    stream::Types,
};

/// How much is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effort {
    Quick,
    Normal,
    Thorough,
}

/// Sizes are compared after fits to no fewer tokens, unless the calibration has fewer.
const COMPARED_TOKENS: usize = 2048;
/// Nor to fewer for each regressor of the widest fit. Fits to few tokens follow their noise, those of wide MLPs most of
/// all: cutting channels would look dearer than it is, and leaving out layers cheaper.
const TOKENS_OF_REGRESSOR: usize = 4;

impl Effort {
    /// How many tokens of a calibration sizes are fitted to while they are compared.
    pub(super) fn compared_tokens(self, config: &Config, calibration: usize) -> usize {
        let share = match self {
            Self::Quick => 12,
            Self::Normal => 6,
            Self::Thorough => 3,
        };
        let widest = config.widest_write().max(config.hidden_size);
        let least = COMPARED_TOKENS.max(TOKENS_OF_REGRESSOR * widest);
        (calibration / share).max(least).min(calibration)
    }

    /// What is removed by an axis alone in its probes, as shares of what is asked for, the most first.
    pub(super) fn depths(self) -> &'static [f64] {
        match self {
            Self::Quick => &[1.0],
            Self::Normal => &[1.0, 0.5],
            Self::Thorough => &[1.0, 0.6, 0.3],
        }
    }

    /// How many sizes are measured after the probes, at most.
    pub(super) fn rounds(self) -> usize {
        match self {
            Self::Quick => 1,
            Self::Normal => 3,
            Self::Thorough => 6,
        }
    }
}

/// How to compress.
#[derive(Debug, Clone)]
pub struct Options {
    pub goal: Goal,
    /// The axes that may be cut.
    pub axes: Vec<Axis>,
    /// Whether they were asked for by name: then one that cannot be cut is an error.
    pub chosen: bool,
    pub effort: Effort,
    /// Whether layers may differ in their heads and channels.
    pub per_layer: bool,
    /// The ridge of the least squares, as a share of the regressors' mean energy.
    pub ridge: f64,
    /// Seeds the next tokens that are drawn for the gradients by which heads and channels are chosen.
    pub seed: u64,
    /// Types of the written tensors.
    pub dtype: Types,
}

impl Options {
    /// Checks that they make sense.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check(&self) -> Result<()> {
        let usage = |reason: String| Err(Error::Usage(reason));
        match self.goal {
            Goal::Parameters(share) if !(share > 0.0 && share < 1.0) => {
                usage(format!("--target-parameters {:+}%: expected a share between 0 and -100 %", -100.0 * share))
            }
            Goal::Bytes(0) => usage("--target-size 0: nothing would be left".into()),
            _ if !(self.ridge > 0.0 && self.ridge.is_finite()) => {
                usage(format!("--ridge {}: expected a number above 0", self.ridge))
            }
            _ => Ok(()),
        }
    }
}

/// How the coordinates of a narrower residual stream are found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Width {
    /// Whether directions count by what the weights read of them, or all alike.
    pub by_reads: bool,
    /// How far from the median a weight of the final norm may be for its coordinate to be rotated, where the head is
    /// the embedding.
    pub tolerance: f64,
}

impl Default for Width {
    fn default() -> Self {
        Self { by_reads: true, tolerance: TOLERANCE }
    }
}

/// A smaller model before it exists.
#[derive(Debug, Clone)]
pub struct Plan {
    pub sizes: Resize,
    pub basis: Width,
    /// The config of the smaller model.
    pub config: Config,
    /// Coordinates of the residual stream.
    pub width: usize,
    /// Coordinates of the tensors: one more where a layer norm would subtract a mean that is not there.
    pub stored_width: usize,
    /// Every tensor, in the order of writing.
    pub tensors: Vec<TensorPlan>,
    pub parameters: u64,
}

impl Plan {
    /// Plans a model of these sizes.
    ///
    /// # Errors
    /// [`Error::Usage`] if there is no ordinary checkpoint of them.
    pub fn new(config: &Config, sizes: Resize, basis: Width, types: &Types) -> Result<Self> {
        if config.fused() || config.pruned {
            let reason = "this model is cut already; compress the original to another size instead";
            return Err(Error::Usage(reason.into()));
        }
        if sizes.layers.first() != Some(&0) {
            return Err(Error::Usage(
                "the first layer cannot be left out: nothing before it could make up for it".into(),
            ));
        }
        let smaller = types.noted_in(config.resized(&sizes)?);
        let stored_width = sizes.width.unwrap_or(config.hidden_size);
        let width = stored_width - if sizes.width.is_some() { config.stock_padding() } else { 0 };
        if width == 0 {
            return Err(Error::Usage(format!("a width of {stored_width} leaves nothing; cut less")));
        }
        let names = Names::of(config);
        let starts: Vec<String> = (0..smaller.layers.len()).map(|at| names.layer(at, "")).collect();
        let original = |name: &str| {
            let layer = starts.iter().zip(&sizes.layers).find_map(|(start, &layer)| {
                let rest = name.strip_prefix(start.as_str())?;
                Some(names.layer(layer, rest))
            });
            layer.unwrap_or_else(|| name.to_owned())
        };
        let dtypes = types.named(config, &smaller, original);
        let specs = smaller.tensors().into_iter().zip(dtypes);
        let tensors = specs.map(|(spec, dtype)| TensorPlan { name: spec.name, shape: spec.shape, dtype }).collect();
        let parameters = smaller.parameters();
        Ok(Self { sizes, basis, config: smaller, width, stored_width, tensors, parameters })
    }

    /// Bytes of all tensors.
    pub fn byte_len(&self) -> u64 {
        self.tensors.iter().map(TensorPlan::byte_len).sum()
    }

    /// Where a layer stands in the smaller model, if it stays.
    pub fn place(&self, layer: usize) -> Option<usize> {
        self.sizes.layers.binary_search(&layer).ok()
    }

    /// The tensors of the weights of a step, those of experts among them, with the names that they get.
    pub(super) fn of_step(&self, config: &Config, layer: usize, step: Step) -> Vec<(TensorSpec, String)> {
        let mut stems: Vec<String> = step.weights().map(|weight| weight.name.to_owned()).collect();
        if step.is_mixture() {
            stems.extend(Names::of(config).of_experts(layer));
        }
        self.of_layer(config, layer, &stems.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The tensors of a layer whose names, whole or without what they end with, are among `starts`, with the names that
    /// they get.
    pub(super) fn of_layer(&self, config: &Config, layer: usize, starts: &[&str]) -> Vec<(TensorSpec, String)> {
        let names = Names::of(config);
        let Some(place) = self.place(layer) else { return Vec::new() };
        let tensors = config.tensors().into_iter();
        tensors
            .filter_map(|spec| {
                let rest = spec.name.strip_prefix(&names.layer(layer, ""))?;
                let stem = rest.strip_suffix(".weight").or_else(|| rest.strip_suffix(".bias")).unwrap_or(rest);
                let name = names.layer(place, rest);
                (starts.contains(&stem) || starts.contains(&rest)).then_some((spec, name))
            })
            .collect()
    }
}

/// The ways of finding coordinates that are tried.
pub fn bases(config: &Config, effort: Effort) -> impl Iterator<Item = Width> {
    let tolerances: &[f64] = match effort {
        _ if !config.can_stay_tied() => &[0.25],
        Effort::Thorough => &[0.25, 0.4],
        _ => &[0.25],
    };
    let weighted: &[bool] = if effort == Effort::Quick { &[true] } else { &[true, false] };
    tolerances.iter().flat_map(|&tolerance| weighted.iter().map(move |&by_reads| Width { by_reads, tolerance }))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::Model;

    #[test]
    fn sizes_are_compared_on_enough_tokens_for_the_widest_fit_where_there_are_as_many() -> Result<()> {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/llama_mha_untied");
        let mut config = Model::open(&fixture)?.config().clone();
        for (channels, calibration, effort, expected) in [
            (40, 1000, Effort::Quick, 1000),
            (40, 65536, Effort::Quick, 5461),
            (40, 65536, Effort::Thorough, 21845),
            (40, 16384, Effort::Normal, 2730),
            (40, 16384, Effort::Quick, 2048),
            (1536, 16384, Effort::Quick, 6144),
            (11008, 524_288, Effort::Normal, 87381),
            (11008, 16384, Effort::Normal, 16384),
        ] {
            config.layers.iter_mut().for_each(|layer| layer.intermediate_size = channels);
            let found = effort.compared_tokens(&config, calibration);
            assert_eq!(found, expected, "{channels} channels, {calibration} tokens, {effort:?}");
        }
        Ok(())
    }
}
