//! What will be written, known before any work is done.

use std::path::Path;

use serde_json::{Value, json};

use super::{
    options::{Basis, Cut, Head, Options},
    schedule::{layer_widths, round_interval, sliced_width},
};
use crate::{
    checkpoint::TensorPlan,
    error::{Error, Result},
    model::{Config, SLICED_PREFIX, Slicing},
    ops::Norm,
};

/// The sliced model before it exists.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The config of the sliced model.
    pub config: Config,
    /// The width that the residual stream will have.
    pub width: usize,
    /// Whether the result is an ordinary checkpoint of the original `model_type`.
    pub stock: bool,
    /// Whether its head is its embedding.
    pub tied: bool,
    /// The width of its tensors: one more than that of the residual stream in the stock form of models with layer norm.
    pub stored_width: usize,
    /// What the width was rounded to.
    pub round_interval: usize,
    /// Every tensor, in the order of writing.
    pub tensors: Vec<TensorPlan>,
    /// Parameters of the original as it is stored.
    pub original_parameters: u64,
    /// Parameters after fusing and untying the head, before slicing: what the paper compares with.
    pub fused_parameters: u64,
    /// Parameters of the result, shortcuts and head included.
    pub sliced_parameters: u64,
}

impl Plan {
    /// Plans slicing a model with this config.
    ///
    /// # Errors
    /// [`Error::Usage`] for a cut that leaves nothing or cannot be reached, options that contradict each other, or a
    /// model that is sliced already.
    pub fn new(config: &Config, options: &Options) -> Result<Self> {
        config.can_slice()?;
        check(config, options)?;
        let stock = options.basis == Basis::SHARED && config.has_stock_form();
        if !stock && !config.has_windows_of_class() {
            return Err(Error::Usage(format!(
                "layer_types: every layer of a sliced {} has the sliding window; give --basis shared, whose result is \
                 an ordinary checkpoint with this list",
                config.architecture.model_type
            )));
        }
        let tied = options.head == Head::Tied;
        let interval = round_interval(config, options, stock);
        let padding = if stock { config.stock_padding() } else { 0 };
        let form = |stored: usize| {
            if stock {
                Ok(options.dtype.noted_in(config.stock(stored, tied)?))
            } else {
                with_widths(config, stored, options)
            }
        };
        let original_parameters = config.parameters();
        let stored_width = match options.cut {
            Cut::Sparsity(sparsity) => sliced_width(config.hidden_size, sparsity, interval)?,
            Cut::Parameters(share) => {
                let most = (1.0 - share) * original_parameters as f64;
                widest(config.hidden_size / interval, |steps| Ok(form(steps * interval)?.parameters() as f64 <= most))?
                    .map(|steps| steps * interval)
                    .ok_or_else(|| unreachable_share(share, options, interval))?
            }
        };
        let width = stored_width - padding;
        if width == 0 {
            return Err(Error::Usage(format!(
                "a width of {stored_width} leaves nothing of hidden_size {}; cut less",
                config.hidden_size
            )));
        }
        let sliced = form(stored_width)?;
        let whole = with_widths(config, config.hidden_size, options)?;
        let types = sliced.tensors().into_iter().zip(options.dtype.of_tensors(config, &sliced));
        Ok(Self {
            width,
            stock,
            tied,
            stored_width,
            round_interval: interval,
            original_parameters,
            fused_parameters: whole.parameters() - whole.shortcut_parameters(),
            sliced_parameters: sliced.parameters(),
            tensors: types.map(|(spec, dtype)| TensorPlan { name: spec.name, shape: spec.shape, dtype }).collect(),
            config: sliced,
        })
    }

    /// The text of config.json, with the sha256 of the tokens that were calibrated on.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub fn config_json(&self, calibration_sha256: &str) -> Result<String> {
        let mut fields = self.config.raw.clone();
        if let Some(Value::Object(slicing)) = fields.get_mut("slicing") {
            slicing.insert("calibration_sha256".into(), calibration_sha256.into());
        }
        Ok(format!("{}\n", serde_json::to_string_pretty(&fields).map_err(Error::internal)?))
    }

    /// Bytes of all tensors.
    pub fn byte_len(&self) -> u64 {
        self.tensors.iter().map(TensorPlan::byte_len).sum()
    }
}

fn check(config: &Config, options: &Options) -> Result<()> {
    let usage = |reason: String| Err(Error::Usage(reason));
    match options.basis {
        Basis::Segments(count) if count > config.layers.len() => {
            usage(format!("--basis segments={count}: the model has {} layers", config.layers.len()))
        }
        Basis::Segments(_) if !options.slice_head => {
            usage(format!("--basis {}: the head has to be sliced, too", options.basis))
        }
        _ if options.head == Head::Tied && !can_stay_tied(config, options.basis) => {
            usage(untied(config, options.basis))
        }
        _ if options.round_interval == Some(0) => {
            usage("--round-interval 0: expected an interval of at least 1".into())
        }
        _ if !(options.ridge > 0.0 && options.ridge.is_finite()) => {
            usage(format!("--ridge {}: expected a number above 0", options.ridge))
        }
        _ => match options.cut {
            Cut::Parameters(share) if !(share > 0.0 && share < 1.0) => {
                usage(format!("--target-parameters {:+}%: expected a share between 0 and -100 %", -100.0 * share))
            }
            _ => Ok(()),
        },
    }
}

/// Whether the head of a model that is sliced this way can stay the embedding.
pub fn can_stay_tied(config: &Config, basis: Basis) -> bool {
    basis == Basis::SHARED && config.has_stock_form() && config.can_stay_tied()
}

/// Why it cannot, and what can be done.
fn untied(config: &Config, basis: Basis) -> String {
    let model_type = config.architecture.model_type;
    let reason = if !config.tie_word_embeddings {
        "the head of this model is a matrix of its own already".to_owned()
    } else if config.architecture.norm.kind == Norm::Layer {
        format!("the layer norm before the head of a {model_type} leaves two matrices of one")
    } else if !config.has_stock_form() || !config.can_stay_tied() {
        format!("a sliced {model_type} has no final norm of its own to make up for it")
    } else {
        format!("--basis {basis} rotates embedding and head apart; give --basis shared, too, or leave out --head")
    };
    let way_out = if reason.contains("--head") { "" } else { "; leave out --head, or give --head untied" };
    format!("--head tied: {reason}{way_out}")
}

fn unreachable_share(share: f64, options: &Options, interval: usize) -> Error {
    Error::Usage(format!(
        "--target-parameters {:+}%: no width that is a multiple of {interval} removes that much with --basis {}; ask \
         for less{}",
        -100.0 * share,
        options.basis,
        if interval > 1 { " or give a smaller --round-interval" } else { "" }
    ))
}

/// The most steps from 1 to `most` that fit, where fewer fit if more do.
fn widest(most: usize, fits: impl Fn(usize) -> Result<bool>) -> Result<Option<usize>> {
    let (mut fit, mut too_many) = (0, most + 1);
    while too_many - fit > 1 {
        let middle = fit.midpoint(too_many);
        if fits(middle)? { fit = middle } else { too_many = middle }
    }
    Ok((fit > 0).then_some(fit))
}

/// The config of the model sliced to `width`: all its fields kept, `model_type` changed, a `slicing` section and the
/// classes for transformers added.
fn with_widths(config: &Config, width: usize, options: &Options) -> Result<Config> {
    let slicing = Slicing {
        method: "slicegpt".into(),
        norm_width: config.hidden_size,
        layers: layer_widths(config, width, options),
        sparsity: match options.cut {
            Cut::Sparsity(sparsity) => sparsity,
            Cut::Parameters(_) => 1.0 - width as f64 / config.hidden_size as f64,
        },
        round_interval: round_interval(config, options, false),
        basis: options.basis.to_string(),
        refit: options.refit.to_string(),
        final_orientation: options.orientation.to_string(),
        seed: options.seed,
        // Known once there are sequences to calibrate on: see `Plan::config_json`.
        calibration_sha256: String::new(),
    };
    let mut raw = config.raw.clone();
    raw.insert("model_type".into(), json!(format!("{SLICED_PREFIX}{}", config.architecture.model_type)));
    let section = serde_json::to_value(slicing).map_err(Error::internal)?;
    raw.insert("slicing".into(), section);
    for (name, value) in config.architecture.forms.code.iter().flat_map(|code| code.fields(false)) {
        raw.insert(name.into(), value);
    }
    Ok(options.dtype.noted_in(Config::from_fields(raw, Path::new("config.json of the sliced model"))?))
}
