//! The config of a smaller model of the same `model_type`, whose layers have the same sizes: narrower, with fewer
//! heads, MLP channels or layers. What its classes cannot tell is refused. Where layers are to differ, it is one of the
//! `model_type` for such, with a `pruning` section, and says the sizes of the dense model beside that.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::stock::set;
use crate::{
    error::{Error, Result},
    model::{
        Config, Experts, LayerSizes, LayerSpec, PRUNED_PREFIX, Pruning,
        architecture::{MixtureLayers, Position, RopeLayers, Window},
    },
};

/// The sizes of a smaller model.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Resize {
    /// Coordinates of the tensors, if there are to be fewer.
    pub width: Option<usize>,
    pub heads: usize,
    pub kv_heads: usize,
    /// Between the linear layers of an MLP, or of an expert.
    pub intermediate_size: usize,
    /// Of each layer that is a mixture, where there are such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experts: Option<usize>,
    /// The layers that stay, ascending.
    pub layers: Vec<usize>,
    /// The sizes of each of them, where they differ; those above are then what all would have in a model as large.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_layer: Option<Vec<LayerSizes>>,
}

impl Resize {
    /// The sizes that a model has.
    pub fn whole(config: &Config) -> Self {
        let LayerSpec { heads, kv_heads, intermediate_size, .. } = config.layers[0];
        let experts = config.layers.iter().find_map(|layer| layer.experts).map(|experts| experts.count);
        let layers = (0..config.layers.len()).collect();
        Self { width: None, heads, kv_heads, intermediate_size, experts, layers, by_layer: None }
    }

    /// The sizes of each layer of a model that stays.
    fn each(&self, config: &Config) -> Vec<LayerSizes> {
        let all_channels = Self::whole(config).intermediate_size;
        let of = |(at, &layer): (usize, &usize)| {
            let spec = &config.layers[layer];
            self.by_layer.as_ref().and_then(|layers| layers.get(at)).copied().unwrap_or(LayerSizes {
                num_attention_heads: self.heads,
                num_key_value_heads: self.kv_heads,
                // Dense layers between mixtures have other numbers of channels.
                intermediate_size: match self.intermediate_size == all_channels {
                    true => spec.intermediate_size,
                    false => self.intermediate_size,
                },
                num_experts: spec.experts.and(self.experts),
            })
        };
        self.layers.iter().enumerate().map(of).collect()
    }
}

impl Config {
    /// All of a model but what its layers, of these sizes, have lost: an ordinary one where they are alike and its
    /// classes have a form for that, one of ours otherwise.
    pub fn with_layers(&self, layers: Vec<LayerSizes>) -> Resize {
        let LayerSizes { num_attention_heads: heads, num_key_value_heads: kv_heads, intermediate_size, .. } = layers[0];
        let experts = layers.iter().find_map(|layer| layer.num_experts);
        let ordinary = Resize { heads, kv_heads, intermediate_size, experts, ..Resize::whole(self) };
        match ordinary.each(self) == layers && self.resized(&ordinary).is_ok() {
            true => ordinary,
            false => Resize { by_layer: Some(layers), ..ordinary },
        }
    }

    /// Whether a model without these layers is one that its classes can continue texts with: they need a layer with
    /// attention, unless there has been none.
    pub fn can_lose(&self, layers: &[usize]) -> bool {
        let attends = |layer: &usize| self.layers[*layer].delta.is_none();
        let all = 0..self.layers.len();
        !all.clone().any(|layer| attends(&layer))
            || all.filter(|layer| !layers.contains(layer)).any(|layer| attends(&layer))
    }

    /// The first layers that can leave together, this many: the next one takes the place of one that has to stay.
    pub fn first_that_can_leave(&self, order: impl IntoIterator<Item = usize>, leave: usize) -> Option<Vec<usize>> {
        let mut out = Vec::new();
        for layer in order {
            out.push(layer);
            if out.len() > leave || !self.can_lose(&out) {
                out.pop();
            }
        }
        Some(out).filter(|out| out.len() == leave)
    }

    /// The config of a model of these sizes.
    ///
    /// # Errors
    /// [`Error::Usage`] that says what the classes of this `model_type` cannot tell; as [`Config::from_fields`].
    pub fn resized(&self, sizes: &Resize) -> Result<Self> {
        let refuse =
            |reason: String| Err(Error::Usage(format!("an ordinary {} cannot {reason}", self.architecture.model_type)));
        let whole = Resize::whole(self);
        let fields = &self.architecture.fields;
        let mut raw = self.raw.clone();
        if let Some(width) = sizes.width {
            if !self.has_stock_form() {
                return refuse("be narrower: its classes have no form for that".into());
            }
            self.narrow(&mut raw, width, self.can_stay_tied());
        }
        let alike = sizes.by_layer.is_none();
        let each = sizes.each(self);
        let heads = |layer: &LayerSizes| (layer.num_attention_heads, layer.num_key_value_heads);
        if each.iter().any(|layer| heads(layer) != (whole.heads, whole.kv_heads)) {
            self.can_cut_heads()?;
        }
        if alike && (sizes.heads, sizes.kv_heads) != (whole.heads, whole.kv_heads) {
            if !self.architecture.attention.explicit_head_dim {
                return refuse("have fewer heads: its classes take hidden_size / heads for the width of a head".into());
            }
            if self.heads_by_width() {
                let by_width = if self.qk_norm().is_some() {
                    "take hidden_size / heads for the width of the norms of queries and keys"
                } else {
                    "count the factors of longrope by hidden_size / heads"
                };
                return refuse(format!("have fewer heads: its classes {by_width}"));
            }
            let width = sizes.width.unwrap_or(self.hidden_size);
            if self.architecture.forms.width_by_heads && !width.is_multiple_of(sizes.heads) {
                return refuse(format!("be {width} wide with {} heads: transformers refuses that", sizes.heads));
            }
            raw.insert("head_dim".into(), json!(self.layers[0].head_dim));
            set(&mut raw, "num_attention_heads", fields.num_attention_heads, sizes.heads);
            match fields.num_key_value_heads {
                Some(name) => {
                    raw.insert(name.into(), json!(sizes.kv_heads));
                }
                None if sizes.heads != sizes.kv_heads => return refuse("share key-value heads".into()),
                None => {}
            }
        }
        if alike && sizes.intermediate_size != whole.intermediate_size {
            if self.is_mixture() {
                return refuse("have experts with fewer channels yet: whole ones can leave".into());
            }
            if fields.intermediate_size.is_empty() {
                return refuse("have fewer channels: its classes take a multiple of hidden_size".into());
            }
            raw.insert(fields.intermediate_size.into(), json!(sizes.intermediate_size));
        }
        if alike && let (Some(mixture), Some(experts)) = (&self.architecture.mixture, sizes.experts) {
            let chosen = self.layers.iter().find_map(|layer| layer.experts).map_or(0, |experts| experts.chosen);
            if experts < chosen {
                return refuse(format!("have {experts} experts: a token goes to {chosen}"));
            }
            let [general, own] = mixture.count.0;
            if sizes.experts != whole.experts {
                set(&mut raw, general, own, experts);
            }
        }
        let left_out: Vec<usize> = whole.layers.iter().copied().filter(|layer| !sizes.layers.contains(layer)).collect();
        if !self.can_lose(&left_out) {
            return refuse("be without any layer with attention: its classes count the tokens of a text there".into());
        }
        if sizes.layers != whole.layers {
            set(&mut raw, "num_hidden_layers", fields.num_hidden_layers, sizes.layers.len());
            self.keep_layers(&mut raw, &sizes.layers);
        }
        if let Some(layers) = &sizes.by_layer {
            self.by_layer(&mut raw, layers);
        }
        let config = Self::from_fields(raw, Path::new("config.json of the smaller model"))?;
        let same = config.layers.len() == sizes.layers.len()
            && sizes.layers.iter().zip(each).zip(&config.layers).all(|((&layer, each), found)| {
                let before = self.layers[layer].clone();
                let experts = before.experts.zip(each.num_experts).map(|(experts, count)| Experts { count, ..experts });
                let (heads, kv_heads) = (each.num_attention_heads, each.num_key_value_heads);
                *found == LayerSpec { heads, kv_heads, intermediate_size: each.intermediate_size, experts, ..before }
            });
        if same {
            Ok(config)
        } else {
            refuse("leave out these layers: what they do depends on where they stand".into())
        }
    }

    /// The config of a model with fewer coordinates of the residual stream, which is otherwise as it is.
    ///
    /// # Errors
    /// [`Error::Usage`] that says what the classes of this `model_type` cannot tell; as [`Config::from_fields`].
    pub fn with_coordinates(&self, width: usize) -> Result<Self> {
        let refuse = |reason: String| {
            let model_type = self.architecture.model_type;
            Err(Error::Usage(format!("an ordinary {model_type} cannot be narrower: {reason}")))
        };
        if !self.architecture.attention.explicit_head_dim || self.heads_by_width() {
            return refuse("its classes take hidden_size / heads for the width of a head".into());
        }
        let heads = self.layers[0].heads;
        if self.architecture.forms.width_by_heads && !width.is_multiple_of(heads) {
            let below = width / heads * heads;
            return refuse(format!(
                "{width} is no multiple of its {heads} heads, which transformers asks for; {below} and {} are",
                below + heads
            ));
        }
        let fields = &self.architecture.fields;
        let mut raw = self.raw.clone();
        raw.insert("head_dim".into(), json!(self.layers[0].head_dim));
        set(&mut raw, "hidden_size", fields.hidden_size, width);
        // Left out, it is a multiple of the width.
        if !fields.intermediate_size.is_empty() {
            set(&mut raw, "intermediate_size", fields.intermediate_size, self.layers[0].intermediate_size);
        }
        // Code that may have come with the model is not written, and not needed.
        raw.remove("auto_map");
        let config = Self::from_fields(raw, Path::new("config.json of the smaller model"))?;
        if config.layers != self.layers {
            return refuse("the sizes of its layers depend on its width".into());
        }
        if config.embedding_scale != self.embedding_scale {
            return refuse("its classes multiply the embedding by the root of the width".into());
        }
        Ok(config)
    }

    /// The config of a model with this many experts in its mixtures, which are otherwise as they are. Where layers have
    /// different numbers, it is one of the `model_type` for such.
    ///
    /// # Errors
    /// [`Error::Usage`] if anything else of `layers` differs; as [`Config::from_fields`].
    pub fn with_experts(&self, layers: &[LayerSizes]) -> Result<Self> {
        let mut raw = self.raw.clone();
        let Some(mixture) = &self.architecture.mixture else {
            return Err(Error::Usage(format!("a {} has no experts", self.architecture.model_type)));
        };
        let counts: Vec<usize> = layers.iter().filter_map(|layer| layer.num_experts).collect();
        match counts.first() {
            Some(first) if counts.iter().all(|count| count == first) => {
                let [general, own] = mixture.count.0;
                set(&mut raw, general, own, *first);
            }
            _ => self.by_layer(&mut raw, layers),
        }
        let config = Self::from_fields(raw, Path::new("config.json of the smaller model"))?;
        if layers.len() == self.layers.len() && config.layers.iter().map(LayerSizes::from).eq(layers.iter().copied()) {
            Ok(config)
        } else {
            Err(Error::Usage("sizes that differ in more than the number of experts".into()))
        }
    }

    /// Makes fields those of a model whose layers differ.
    fn by_layer(&self, raw: &mut serde_json::Map<String, Value>, layers: &[LayerSizes]) {
        raw.insert("model_type".into(), json!(format!("{PRUNED_PREFIX}{}", self.architecture.model_type)));
        raw.insert("pruning".into(), json!(Pruning { layers: layers.to_vec() }));
        for (name, value) in self.architecture.forms.code.iter().flat_map(|code| code.fields(true)) {
            raw.insert(name.into(), value);
        }
    }

    /// Makes what a config says of each layer that of the layers that stay.
    fn keep_layers(&self, raw: &mut serde_json::Map<String, Value>, stay: &[usize]) {
        let count = self.layers.len();
        let mut lists = vec!["layer_types"];
        if let Position::Rope { layers: RopeLayers::Listed { list, .. }, .. } = self.architecture.attention.position {
            let flags: Vec<u8> = self.layers.iter().map(|layer| u8::from(layer.rope.is_some())).collect();
            raw.insert(list.into(), json!(flags));
            lists.push(list);
        }
        for name in lists {
            if let Some(Value::Array(values)) = raw.get_mut(name)
                && values.len() >= count
            {
                *values = stay.iter().map(|&layer| values[layer].clone()).collect();
            }
        }
        // What was to be worked out from the number of a layer is said of each.
        let every = self.architecture.mixture.map(|mixture| mixture.layers);
        if let Some(MixtureLayers::Every { step, dense }) = every
            && self.is_mixture()
        {
            let is_dense = |place: &usize| self.layers[stay[*place]].experts.is_none();
            raw.insert(step.into(), json!(1));
            raw.insert(dense.into(), (0..stay.len()).filter(is_dense).collect());
        }
        if self.architecture.delta_net.is_some() && !raw.contains_key("layer_types") {
            let linear = |layer: &usize| self.layers[*layer].delta.is_some();
            let types = stay.iter().map(|layer| if linear(layer) { "linear_attention" } else { "full_attention" });
            raw.insert("layer_types".into(), types.collect());
        }
        if matches!(self.architecture.attention.window, Window::Pattern { .. }) && !raw.contains_key("layer_types") {
            let full = |layer: &usize| self.layers[*layer].window.is_none();
            let types = stay.iter().map(|layer| if full(layer) { "full_attention" } else { "sliding_attention" });
            raw.insert("layer_types".into(), types.collect());
        }
        if let Window::Repeated { list, each, .. } = self.architecture.attention.window {
            raw.remove(each);
            let name = |layer: &usize| if self.layers[*layer].window.is_some() { "local" } else { "global" };
            raw.insert(list.into(), stay.iter().map(|layer| json!([[name(layer)], 1])).collect());
        }
        if self.architecture.attention.window == Window::FromLayer
            && self.layers.iter().any(|layer| layer.window.is_some())
        {
            let full = stay.iter().filter(|&&layer| self.layers[layer].window.is_none()).count();
            raw.insert("max_window_layers".into(), json!(full));
        }
    }
}
