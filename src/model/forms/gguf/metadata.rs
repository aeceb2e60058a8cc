//! What a GGUF file says about the model before its tensors, and which models it can say it of.

use crate::{
    checkpoint::{GgufType, GgufValue},
    error::{Error, Result},
    model::{
        Config, LayerSpec, Scaling,
        architecture::{ARCHITECTURES, Role, Weight},
        forms::Gguf,
    },
    ops::Activation,
};

/// Key and value of the metadata, in the order they are written.
pub type Metadata = Vec<(String, GgufValue)>;

/// How llama.cpp takes this model.
///
/// # Errors
/// [`Error::Usage`] with the reason if it cannot.
pub fn target(config: &Config) -> Result<Gguf> {
    let architecture = config.architecture;
    let refuse =
        |reason: String| Err(Error::Usage(format!("{} cannot be exported as gguf: {reason}", architecture.model_type)));
    let Some(target) = architecture.forms.gguf else {
        let known: Vec<_> =
            ARCHITECTURES.iter().filter(|row| row.forms.gguf.is_some()).map(|row| row.model_type).collect();
        return refuse(format!("only {} can", known.join(", ")));
    };
    if config.slicing.is_some() {
        return refuse(
            "sliced with a basis of its own for each layer, which llama.cpp has no form for; slice with \
             `run --basis shared`"
                .into(),
        );
    }
    let own = &architecture.gguf_own;
    if config.activation != own.activation {
        let theirs = if own.activation == Activation::Silu { "silu" } else { "gelu by its tanh" };
        return refuse(format!("llama.cpp computes {theirs} in its MLP, not {:?}", config.activation));
    }
    if own.tied && !config.tie_word_embeddings {
        return refuse("llama.cpp takes the embedding for the head of this architecture, which here are two".into());
    }
    let always = |field: Option<(&str, Option<f64>)>| field.is_some_and(|(_, default)| default.is_some());
    let uncapped = (always(architecture.attention.softcap) && config.layers[0].softcap.is_none())
        || (always(architecture.multipliers.logit_softcap) && config.logit_softcap.is_none());
    if own.softcaps && uncapped {
        return refuse("llama.cpp always caps the scores and the logits of this architecture".into());
    }
    if let Some(interval) = own.window_interval {
        let windowed = |layer: usize| !(layer + 1).is_multiple_of(interval);
        let window = config.layers.iter().find_map(|layer| layer.window);
        let differs = |(at, layer): (usize, &LayerSpec)| layer.window != window.filter(|_| windowed(at));
        if config.layers.iter().enumerate().any(differs) {
            return refuse(format!("llama.cpp has a window in all layers of this architecture but every {interval}th"));
        }
    }
    let alike = !differ(config, |layer| (layer.heads, layer.kv_heads, layer.intermediate_size));
    let wider = alike && config.layers.iter().any(|layer| layer.heads_width() != config.hidden_size);
    let target = target.other_widths.filter(|_| wider).copied().unwrap_or(target);
    let biased = |weight: &&Weight| {
        config.has_bias(weight.bias) && weight.holds.iter().any(|role| !target.biases.contains(role))
    };
    if let Some(weight) = architecture.weights().find(biased) {
        return refuse(format!("llama.cpp has no bias for {} in this architecture", weight.name));
    }
    if differ(config, |layer| layer.experts) {
        return refuse("its layers differ in their experts, or some have none, which llama.cpp has no form for".into());
    }
    if let (Some(experts), Some(mixture)) = (config.layers[0].experts, architecture.mixture)
        && experts.normalised != mixture.gguf_normalises
    {
        return refuse(match experts.normalised {
            true => "this model divides the gates of a token's experts by their sum, which llama.cpp does not".into(),
            false => "llama.cpp divides the gates of a token's experts by their sum, which this model does not".into(),
        });
    }
    let usual = |layer: &LayerSpec| (1.0 / (layer.head_dim as f64).sqrt()) as f32;
    if config.layers.iter().any(|layer| layer.attention_scale != usual(layer)) {
        return refuse("llama.cpp scales attention by 1/sqrt(head_dim) alone".into());
    }
    let tables = |layer: &LayerSpec| layer.rope.map(|table| if own.window_interval.is_some() { 0 } else { table });
    if differ(config, |layer| (layer.head_dim, tables(layer))) {
        return refuse("its layers differ in their rotary embeddings".into());
    }
    if alike {
        return Ok(target);
    }
    let Some(by_layer) = target.by_layer else {
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
    if config.layers.iter().any(odd) && architecture.weights().any(biased) {
        return refuse("llama.cpp has no bias for queries where layers have fewer of them".into());
    }
    Ok(Gguf { architecture: by_layer, ..target })
}

/// Whether layers differ in something.
fn differ<T: PartialEq>(config: &Config, of: impl Fn(&LayerSpec) -> T) -> bool {
    config.layers.windows(2).any(|pair| of(&pair[0]) != of(&pair[1]))
}

/// The factors that divide the plain frequencies, where only they can say how the model scales them.
pub fn frequency_factors(config: &Config) -> Option<Vec<f32>> {
    let rope = config.ropes.first().filter(|rope| rope.scaling == Scaling::Other)?;
    let dim = 2 * rope.inverse_frequencies.len();
    let plain = (0..dim).step_by(2).map(|pair| 1.0 / rope.theta.powf(pair as f64 / dim as f64));
    Some(plain.zip(&rope.inverse_frequencies).map(|(plain, scaled)| (plain / f64::from(*scaled)) as f32).collect())
}

/// Everything but the vocabulary.
///
/// # Errors
/// [`Error::Usage`] for rotary embeddings that llama.cpp cannot compute.
pub fn metadata(
    config: &Config,
    target: Gguf,
    name: &str,
    kind: GgufType,
    notes: &mut Vec<String>,
) -> Result<Metadata> {
    let size = |number: usize| GgufValue::U32(number as u32);
    let text = |text: &str| GgufValue::Text(text.to_owned());
    let mut list = vec![
        ("general.architecture".to_owned(), text(target.architecture)),
        ("general.type".to_owned(), text("model")),
        ("general.name".to_owned(), text(name)),
        ("general.file_type".to_owned(), GgufValue::U32(file_type(kind))),
        ("general.quantization_version".to_owned(), GgufValue::U32(2)),
    ];
    let layer = &config.layers[0];
    // One number, or one for each layer where they differ.
    let by_layer = Some(target.architecture) == target.by_layer;
    let sizes = |of: fn(&LayerSpec) -> usize| match by_layer {
        true => GgufValue::I32s(config.layers.iter().map(|layer| of(layer) as i32).collect()),
        false => size(of(layer)),
    };
    let mut add = |key: &str, value| list.push((format!("{}.{key}", target.architecture), value));
    add("vocab_size", size(config.vocab_size));
    add("context_length", size(context_length(config, notes)));
    add("embedding_length", size(config.hidden_size));
    add("block_count", size(config.layers.len()));
    match layer.experts {
        // Of the MLP of dense layers, where there were any.
        Some(_) => add("feed_forward_length", size(dense_width(config))),
        None => add("feed_forward_length", sizes(|layer| layer.intermediate_size)),
    }
    if let Some(experts) = layer.experts {
        add("expert_count", size(experts.count));
        add("expert_used_count", size(experts.chosen));
        add("expert_feed_forward_length", size(layer.intermediate_size));
        if let Some(width) = experts.shared {
            add("expert_shared_feed_forward_length", size(width));
        }
    }
    add("attention.head_count", sizes(|layer| layer.heads));
    add("attention.head_count_kv", sizes(|layer| layer.kv_heads));
    add("attention.key_length", size(layer.head_dim));
    add("attention.value_length", size(layer.head_dim));
    add("attention.layer_norm_rms_epsilon", GgufValue::F32(config.norm_eps));
    let own = &config.architecture.gguf_own;
    if own.window_interval.is_some()
        && let Some(window) = config.layers.iter().find_map(|layer| layer.window)
    {
        add("attention.sliding_window", size(window));
    }
    if own.softcaps {
        // What the file does not say is what the architecture had first.
        for (key, cap) in
            [("attn_logit_softcapping", config.layers[0].softcap), ("final_logit_softcapping", config.logit_softcap)]
        {
            if let Some(cap) = cap {
                add(key, GgufValue::F32(cap));
            }
        }
    }
    let Some(rope) = config.ropes.first() else { return Ok(list) };
    if let Some(local) = config.ropes.get(1) {
        if local.scaling != Scaling::None {
            return Err(Error::Usage(format!(
                "{} cannot be exported as gguf: llama.cpp scales no rotary frequencies of layers with a window",
                config.architecture.model_type
            )));
        }
        add("rope.freq_base_swa", GgufValue::F32(local.theta as f32));
    }
    add("rope.dimension_count", size(2 * rope.inverse_frequencies.len()));
    add("rope.freq_base", GgufValue::F32(rope.theta as f32));
    // What llama.cpp multiplies cosines and sines by of its own accord.
    let mut magnitude = 1.0;
    match rope.scaling {
        Scaling::None => {}
        Scaling::Linear { factor } => {
            add("rope.scaling.type", text("linear"));
            add("rope.scaling.factor", GgufValue::F32(factor as f32));
        }
        Scaling::Yarn { factor, original } => {
            magnitude = if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 };
            add("rope.scaling.type", text("yarn"));
            add("rope.scaling.factor", GgufValue::F32(factor as f32));
            add("rope.scaling.original_context_length", size(original as usize));
        }
        Scaling::Other if target.frequency_factors => add("rope.scaling.type", text("none")),
        Scaling::Other => {
            return Err(Error::Usage(format!(
                "{} cannot be exported as gguf: llama.cpp scales its rotary frequencies by linear and by plain yarn \
                 rules alone",
                config.architecture.model_type
            )));
        }
    }
    let factor = (f64::from(rope.attention_factor) / magnitude) as f32;
    // Rounded where it was read.
    if (factor - 1.0).abs() > 1e-6 {
        add("rope.scaling.attn_factor", GgufValue::F32(factor));
    }
    Ok(list)
}

/// What a mixture's config says of the width of MLPs that are none.
fn dense_width(config: &Config) -> usize {
    let (name, own) = (config.architecture.fields.intermediate_size, config.layers[0].intermediate_size);
    config.raw.get(name).and_then(serde_json::Value::as_u64).map_or(own, |width| width as usize)
}

/// The number that `general.file_type` has for files of mostly this type.
fn file_type(kind: GgufType) -> u32 {
    match kind {
        GgufType::F32 => 0,
        GgufType::F16 => 1,
        GgufType::Q8_0 => 7,
    }
}

/// The positions that the file gives llama.cpp. It has no sliding windows for these architectures: within the smallest one,
/// there is no difference.
fn context_length(config: &Config, notes: &mut Vec<String>) -> usize {
    let known = config.architecture.gguf_own.window_interval.is_some();
    let windows = config.layers.iter().filter_map(|layer| layer.window.filter(|_| !known));
    let window = windows.min().unwrap_or(usize::MAX);
    if window < config.max_position_embeddings {
        notes.push(format!(
            "context_length is {window}, the model's sliding window, instead of {}: llama.cpp has no windows for this \
             architecture, and beyond one it would compute something else",
            config.max_position_embeddings
        ));
    }
    window.min(config.max_position_embeddings)
}

/// The part of a tensor's name that says which weight it is.
pub fn stem(role: Role) -> &'static str {
    match role {
        Role::Query => "attn_q",
        Role::Key => "attn_k",
        Role::Value => "attn_v",
        Role::Output => "attn_output",
        Role::Gate => "ffn_gate",
        Role::Up => "ffn_up",
        Role::Down => "ffn_down",
        Role::Router => "ffn_gate_inp",
        Role::OutputGate => "attn_gate",
        Role::Mixed => "attn_qkv",
        Role::Beta => "ssm_beta",
        Role::Decay => "ssm_alpha",
    }
}
