//! Which models llama.cpp can compute, and as what it takes them.

use crate::{
    error::{Error, Result},
    model::{
        Config, LayerSpec, Rope, Scaling,
        architecture::{ARCHITECTURES, Architecture, Role, Weight},
        delta_net::UNIT_EPS,
        forms::{Gguf, GgufAlibi, GgufBiases, GgufHead, GgufQkNorm, GgufWindows, OtherWidths},
    },
    ops::Activation,
};

use super::names::MULTIPLIERS;

/// How llama.cpp takes this model.
///
/// # Errors
/// [`Error::Usage`] with the reason if it cannot.
pub fn target(config: &Config) -> Result<Gguf> {
    let row = config.architecture;
    let found = find(config);
    found.map_err(|reason| Error::Usage(format!("{} cannot be exported as gguf: {reason}", row.model_type)))
}

type Checked<T = ()> = std::result::Result<T, String>;

fn refuse<T>(reason: impl Into<String>) -> Checked<T> {
    Err(reason.into())
}

fn find(config: &Config) -> Checked<Gguf> {
    let row = config.architecture;
    let Some(target) = row.forms.gguf else {
        // Of some model types, llama.cpp has one row and not another.
        let others = ARCHITECTURES.iter().filter(|other| other.model_type == row.model_type);
        let able: Vec<_> = others.filter(|other| other.forms.gguf.is_some()).flat_map(|other| other.when).collect();
        if let Some((name, value, _)) = row.when.iter().find(|field| !able.is_empty() && !able.contains(field)) {
            return refuse(format!("llama.cpp has none of these with {name} {value}"));
        }
        let mut known: Vec<_> =
            ARCHITECTURES.iter().filter(|row| row.forms.gguf.is_some()).map(|row| row.model_type).collect();
        known.dedup();
        return refuse(format!("only {} can", known.join(", ")));
    };
    if config.slicing.is_some() {
        return refuse(
            "sliced with a basis of its own for each layer, which llama.cpp has no form for; slice with \
             `run --basis shared`",
        );
    }
    activation(config)?;
    let head = row.gguf_own.head;
    if head == GgufHead::Embedding && !config.tie_word_embeddings {
        return refuse("llama.cpp takes the embedding for the head of this architecture, which here are two");
    }
    caps(config)?;
    attention(config)?;
    let alike = !differ(config, |layer| (layer.heads, layer.kv_heads, layer.intermediate_size));
    let target = of_width(config, target, alike)?;
    biases(config, target)?;
    experts(config)?;
    delta_nets(config)?;
    rotary(config, target)?;
    if alike { Ok(target) } else { by_layer(config, target) }
}

/// The factor of the signals that the config gives by this name, or what its class has.
pub fn multiplier(config: &Config, name: &str) -> f64 {
    let default = config.architecture.multipliers.logit_scale.filter(|(own, _)| *own == name);
    let given = config.raw.get(name).and_then(serde_json::Value::as_f64);
    given.or(default.map(|(_, factor)| factor)).unwrap_or(1.0)
}

/// Whether layers differ in something.
fn differ<T: PartialEq>(config: &Config, of: impl Fn(&LayerSpec) -> T) -> bool {
    config.layers.windows(2).any(|pair| of(&pair[0]) != of(&pair[1]))
}

/// Whether llama.cpp takes its gelu, by tanh, for the one with the error function that this model has: it does for
/// architectures whose models all have the latter.
pub fn approximates_gelu(config: &Config) -> bool {
    let (row, theirs) = (config.architecture, config.architecture.gguf_own.activation);
    (config.activation, theirs) == (Activation::Gelu, Activation::GeluTanh) && row.fields.activation.1 == "gelu"
}

/// How the frequencies are scaled there: the ends of YaRN's ramp are always rounded. For architectures whose models all
/// have a ramp with ends that are not, those are their own files' frequencies as well.
pub fn scaling(config: &Config, rope: &Rope) -> Scaling {
    match rope.scaling {
        Scaling::YarnBetween { factor, original, .. } if never_rounds(config.architecture) => {
            Scaling::Yarn { factor, original }
        }
        Scaling::YarnBetween { .. } => Scaling::Other,
        scaling => scaling,
    }
}

/// Whether the models of a row have a ramp of YaRN whose ends are not rounded.
pub fn never_rounds(row: &Architecture) -> bool {
    row.attention.default_scaling.is_some_and(|yarn| !yarn.truncate)
}

fn activation(config: &Config) -> Checked {
    let theirs = config.architecture.gguf_own.activation;
    if config.activation == theirs || approximates_gelu(config) {
        return Ok(());
    }
    let theirs = if theirs == Activation::Silu { "silu" } else { "gelu by its tanh" };
    refuse(format!("llama.cpp computes {theirs} in its MLP, not {:?}", config.activation))
}

fn caps(config: &Config) -> Checked {
    let row = config.architecture;
    let always = |field: Option<(&str, Option<f64>)>| field.is_some_and(|(_, default)| default.is_some());
    let uncapped = (always(row.attention.softcap) && config.layers[0].softcap.is_none())
        || (always(row.multipliers.logit_softcap) && config.logit_softcap.is_none());
    if row.gguf_own.softcaps && uncapped {
        return refuse("llama.cpp always caps the scores and the logits of this architecture");
    }
    // It takes 0 for none of these, and there are models that multiply by it.
    for (key, name) in MULTIPLIERS.iter().filter_map(|(key, name)| Some((key, name(&row.multipliers)?))) {
        if multiplier(config, name) == 0.0 {
            return refuse(format!("llama.cpp takes the {name} of 0 for none ({key})"));
        }
    }
    Ok(())
}

/// What its attention has beside the usual.
fn attention(config: &Config) -> Checked {
    let (row, own) = (config.architecture, &config.architecture.gguf_own);
    if let GgufWindows::Interval(interval) = own.windows {
        let windowed = |layer: usize| !(layer + 1).is_multiple_of(interval);
        let window = config.layers.iter().find_map(|layer| layer.window);
        let differs = |(at, layer): (usize, &LayerSpec)| layer.window != window.filter(|_| windowed(at));
        if config.layers.iter().enumerate().any(differs) {
            let nth = if interval == 2 { "2nd".into() } else { format!("{interval}th") };
            return refuse(format!("llama.cpp has a window in all layers of this architecture but every {nth}"));
        }
        // Where no layer has a window, the angles may still be those of layers with one.
        let two = config.ropes.windows(2).any(|pair| pair[0] != pair[1]);
        let turns = |(at, layer): (usize, &LayerSpec)| layer.rope != Some(usize::from(windowed(at)));
        if two && config.layers.iter().enumerate().any(turns) {
            return refuse("llama.cpp turns the heads of layers with and without a window by other angles than these");
        }
    }
    if let Some(interval) = own.nope_interval {
        let differs = |(at, layer): (usize, &LayerSpec)| layer.rope.is_none() != (at + 1).is_multiple_of(interval);
        if config.layers.iter().enumerate().any(differs) {
            return refuse(format!(
                "llama.cpp has rotary embeddings in all layers of this architecture but every {interval}th, and this \
                 model in others"
            ));
        }
    }
    if own.alibi == GgufAlibi::Never && config.layers.iter().any(|layer| layer.alibi.is_some()) {
        return refuse("llama.cpp has no linear biases (alibi) in the attention of this architecture");
    }
    if !own.clip && config.layers.iter().any(|layer| layer.clip_qkv.is_some()) {
        return refuse("llama.cpp does not clip queries, keys and values in this architecture");
    }
    let usual = |layer: &LayerSpec| (1.0 / (layer.head_dim as f64).sqrt()) as f32;
    if row.multipliers.attention.is_none() && config.layers.iter().any(|layer| layer.attention_scale != usual(layer)) {
        return refuse("llama.cpp scales attention by 1/sqrt(head_dim) alone");
    }
    let layers = config.layers.len();
    match (own.qk_norm, config.qk_norm()) {
        (GgufQkNorm::FromLayers(from), norm) if norm.is_some() != (layers >= from) => refuse(format!(
            "llama.cpp has norms of queries and keys in models of {from} layers and more, and in no others; this one \
             has {layers}"
        )),
        (GgufQkNorm::Never, Some(_)) => refuse("llama.cpp has no norms of queries and keys in this architecture"),
        (GgufQkNorm::OfAsManyKeys, Some(_)) if config.layers.iter().any(|layer| layer.kv_heads != layer.heads) => {
            refuse("llama.cpp has one width for the norms of queries and of keys, of which this model has fewer")
        }
        _ => Ok(()),
    }
}

/// What a model is taken for by the width of its queries.
fn of_width(config: &Config, target: Gguf, alike: bool) -> Checked<Gguf> {
    let other = config.layers.iter().find(|layer| layer.heads_width() != config.hidden_size);
    match (other.filter(|_| alike), target.other_widths) {
        (None, _) | (_, OtherWidths::Alike) => Ok(target),
        (Some(_), OtherWidths::As(other)) => Ok(*other),
        (Some(layer), OtherWidths::Never) => refuse(format!(
            "its queries together are {} wide and its residual stream {}, which llama.cpp takes for one width in this \
             architecture",
            layer.heads_width(),
            config.hidden_size
        )),
    }
}

fn biases(config: &Config, target: Gguf) -> Checked {
    let weights = || config.architecture.weights();
    match target.biases {
        GgufBiases::Of(may) => {
            let has = |weight: &&Weight| config.has_bias(weight.bias);
            let without = |weight: &&Weight| weight.holds.iter().any(|role| !may.contains(role));
            weights().filter(has).find(without).map_or(Ok(()), |weight| {
                refuse(format!("llama.cpp has no bias for {} in this architecture", weight.name))
            })
        }
        GgufBiases::All => Ok(()),
    }
}

/// What its gated delta nets are like.
fn delta_nets(config: &Config) -> Checked {
    let Some(delta) = config.layers.iter().find_map(|layer| layer.delta) else {
        return match config.architecture.delta_net {
            Some(_) => refuse("llama.cpp has gated delta nets in this architecture, and this model has none"),
            None => Ok(()),
        };
    };
    let interval = attention_interval(config);
    let regular = |(at, layer): (usize, &LayerSpec)| layer.delta.is_none() == (at + 1).is_multiple_of(interval);
    if !config.layers.iter().enumerate().all(regular) {
        return refuse(
            "llama.cpp has attention in every nth layer and delta nets in all others, and this model elsewhere",
        );
    }
    if delta.shape.key_dim != delta.shape.value_dim {
        return refuse(format!(
            "the keys of its delta nets are {} wide and the values {}, which llama.cpp takes for one width",
            delta.shape.key_dim, delta.shape.value_dim
        ));
    }
    // The model adds this to the squares whatever the eps of its norms is.
    if (config.head_norm_eps - UNIT_EPS).abs() > UNIT_EPS * f32::EPSILON {
        return refuse(format!(
            "llama.cpp divides queries and keys of delta nets by their length with the eps of the norms, which is {}: \
             the model does with {UNIT_EPS}",
            config.head_norm_eps
        ));
    }
    Ok(())
}

/// The first layer with attention, counted from 1: of a regular model, also how far they are apart.
pub fn attention_interval(config: &Config) -> usize {
    let first = config.layers.iter().position(|layer| layer.delta.is_none());
    first.unwrap_or(config.layers.len()) + 1
}

fn experts(config: &Config) -> Checked {
    let none = config.architecture.mixture.is_some() && !config.is_mixture();
    if none || differ(config, |layer| layer.experts) {
        return refuse("its layers differ in their experts, or some have none, which llama.cpp has no form for");
    }
    if let (Some(own), Some([(_, alpha), (_, limit)])) =
        (config.layers[0].swiglu, config.architecture.mixture.and_then(|mixture| mixture.swiglu))
        && (own.alpha, own.limit) != (alpha as f32, limit as f32)
    {
        return refuse(format!(
            "llama.cpp computes the experts of this architecture with α = {alpha} and values up to {limit}, and this \
             model has α = {} and values up to {}",
            own.alpha, own.limit
        ));
    }
    match config.layers[0].experts.zip(config.architecture.mixture) {
        Some((experts, mixture)) if experts.normalised != mixture.gguf_normalises => refuse(match experts.normalised {
            true => "this model divides the gates of a token's experts by their sum, which llama.cpp does not",
            false => "llama.cpp divides the gates of a token's experts by their sum, which this model does not",
        }),
        _ => Ok(()),
    }
}

fn rotary(config: &Config, target: Gguf) -> Checked {
    let own = &config.architecture.gguf_own;
    let (local, nope) = (matches!(own.windows, GgufWindows::Interval(_)), own.nope_interval.is_some());
    // Delta nets turn nothing.
    let table = |layer: &LayerSpec| if layer.delta.is_some() { Some(0) } else { layer.rope };
    let tables = |layer: &LayerSpec| table(layer).map(|table| if local { 0 } else { table }).filter(|_| !nope);
    if differ(config, |layer| (layer.head_dim, tables(layer))) {
        return refuse("its layers differ in their rotary embeddings");
    }
    let Some(rope) = config.ropes.first() else { return Ok(()) };
    let turned = 2 * rope.inverse_frequencies.len();
    if target.interleaved && turned != config.layers[0].head_dim {
        return refuse(format!(
            "llama.cpp takes it for a {}, which turns whole heads: here, {turned} coordinates of {} turn",
            target.architecture, config.layers[0].head_dim
        ));
    }
    if config.ropes.get(1).is_some_and(|local| local.scaling != Scaling::None) {
        return refuse("llama.cpp scales no rotary frequencies of layers with a window");
    }
    let plain = |pair: usize| rope.theta.powf(-2.0 * pair as f64 / turned as f64);
    let near = |(pair, found): (usize, &f32)| (f64::from(*found) / plain(pair) - 1.0).abs() < 1e-5;
    match scaling(config, rope) {
        Scaling::None if !rope.inverse_frequencies.iter().enumerate().all(near) => {
            refuse("an odd number of coordinates turn, for which llama.cpp has other frequencies")
        }
        Scaling::Other if rope.long.is_some() && !target.long_factors => {
            refuse("llama.cpp has no rotary factors of long texts in this architecture")
        }
        Scaling::Other if rope.long.is_none() && !target.frequency_factors => {
            refuse("llama.cpp scales its rotary frequencies by linear and by plain yarn rules alone")
        }
        _ => Ok(()),
    }
}

/// The architecture of models whose layers differ in size.
fn by_layer(config: &Config, target: Gguf) -> Checked<Gguf> {
    let Some(architecture) = target.by_layer else {
        let able = ARCHITECTURES.iter().filter(|row| row.forms.gguf.is_some_and(|target| target.by_layer.is_some()));
        let able: Vec<_> = able.map(|row| row.model_type).collect();
        return refuse(format!(
            "its layers differ in their heads or in the width of their MLPs, which llama.cpp has a form for only where \
             they are those of {}; compress without --per-layer makes them alike",
            able.join(" or ")
        ));
    };
    // There, the bias of the queries has the width of the residual stream.
    let odd = |layer: &LayerSpec| layer.heads_width() != config.hidden_size;
    let biased = |weight: &Weight| config.has_bias(weight.bias) && weight.holds.contains(&Role::Query);
    if config.layers.iter().any(odd) && config.architecture.weights().any(biased) {
        return refuse("llama.cpp has no bias for queries where layers have fewer of them");
    }
    Ok(Gguf { architecture, ..target })
}
