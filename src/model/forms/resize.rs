//! The config of a smaller model of the same `model_type`, whose layers have the same sizes: narrower, with fewer
//! heads, MLP channels or layers. What its classes cannot tell is refused. Where layers are to differ, it is one of the
//! `model_type` for such, with a `pruning` section, and says the sizes of the dense model beside that.

use std::{fmt::Display, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

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
        let whole = Resize::whole(self);
        let mut raw = self.raw.clone();
        if let Some(width) = sizes.width {
            if !self.has_stock_form() {
                return Err(self.cannot("be narrower: its classes have no form for that"));
            }
            self.narrow(&mut raw, width, self.can_stay_tied());
        }
        let each = sizes.each(self);
        let heads = |layer: &LayerSizes| (layer.num_attention_heads, layer.num_key_value_heads);
        if each.iter().any(|layer| heads(layer) != (whole.heads, whole.kv_heads)) {
            self.can_cut_heads()?;
        }
        if sizes.by_layer.is_none() {
            self.set_heads(&mut raw, sizes, &whole)?;
            self.set_channels(&mut raw, sizes, &whole)?;
            self.set_experts(&mut raw, sizes, &whole)?;
        }
        let left_out: Vec<usize> = whole.layers.iter().copied().filter(|layer| !sizes.layers.contains(layer)).collect();
        if !self.can_lose(&left_out) {
            return Err(
                self.cannot("be without any layer with attention: its classes count the tokens of a text there")
            );
        }
        if sizes.layers != whole.layers {
            let name = self.architecture.fields.num_hidden_layers;
            set(&mut raw, "num_hidden_layers", name, sizes.layers.len());
            self.keep_layers(&mut raw, &sizes.layers);
        }
        if let Some(layers) = &sizes.by_layer {
            self.by_layer(&mut raw, layers);
        }
        let config = Self::from_fields(raw, Path::new("config.json of the smaller model"))?;
        let expected = sizes.layers.iter().zip(each).map(|(&layer, each)| {
            let before = self.layers[layer].clone();
            let experts = before.experts.zip(each.num_experts).map(|(experts, count)| Experts { count, ..experts });
            let (heads, kv_heads) = (each.num_attention_heads, each.num_key_value_heads);
            LayerSpec { heads, kv_heads, intermediate_size: each.intermediate_size, experts, ..before }
        });
        if config.layers.iter().cloned().eq(expected) {
            Ok(config)
        } else {
            Err(self.cannot("leave out these layers: what they do depends on where they stand"))
        }
    }

    /// That its classes have no form for what is asked.
    fn cannot(&self, what: impl Display) -> Error {
        Error::Usage(format!("an ordinary {} cannot {what}", self.architecture.model_type))
    }

    /// Makes fields those of a model with as many heads in each layer.
    fn set_heads(&self, raw: &mut Map<String, Value>, sizes: &Resize, whole: &Resize) -> Result<()> {
        if (sizes.heads, sizes.kv_heads) == (whole.heads, whole.kv_heads) {
            return Ok(());
        }
        if !self.architecture.attention.explicit_head_dim {
            return Err(self.cannot("have fewer heads: its classes take hidden_size / heads for the width of a head"));
        }
        if self.heads_by_width() {
            let by_width = if self.qk_norm().is_some() {
                "take hidden_size / heads for the width of the norms of queries and keys"
            } else {
                "count the factors of longrope by hidden_size / heads"
            };
            return Err(self.cannot(format_args!("have fewer heads: its classes {by_width}")));
        }
        let (width, heads) = (sizes.width.unwrap_or(self.hidden_size), sizes.heads);
        if self.architecture.forms.width_by_heads && !width.is_multiple_of(heads) {
            return Err(self.cannot(format_args!("be {width} wide with {heads} heads: transformers refuses that")));
        }
        let fields = &self.architecture.fields;
        raw.insert("head_dim".into(), json!(self.layers[0].head_dim));
        set(raw, "num_attention_heads", fields.num_attention_heads, heads);
        match fields.num_key_value_heads {
            Some(name) => drop(raw.insert(name.into(), json!(sizes.kv_heads))),
            None if heads != sizes.kv_heads => return Err(self.cannot("share key-value heads")),
            None => {}
        }
        Ok(())
    }

    /// The same with as many channels in the MLP of each layer.
    fn set_channels(&self, raw: &mut Map<String, Value>, sizes: &Resize, whole: &Resize) -> Result<()> {
        let name = self.architecture.fields.intermediate_size;
        match sizes.intermediate_size {
            same if same == whole.intermediate_size => Ok(()),
            _ if self.is_mixture() => Err(self.cannot("have experts with fewer channels yet: whole ones can leave")),
            _ if name.is_empty() => Err(self.cannot("have fewer channels: its classes take a multiple of hidden_size")),
            channels => {
                raw.insert(name.into(), json!(channels));
                Ok(())
            }
        }
    }

    /// The same with as many experts in each mixture.
    fn set_experts(&self, raw: &mut Map<String, Value>, sizes: &Resize, whole: &Resize) -> Result<()> {
        let (Some(mixture), Some(experts)) = (&self.architecture.mixture, sizes.experts) else { return Ok(()) };
        let chosen = self.layers.iter().find_map(|layer| layer.experts).map_or(0, |experts| experts.chosen);
        if experts < chosen {
            return Err(self.cannot(format_args!("have {experts} experts: a token goes to {chosen}")));
        }
        let [general, own] = mixture.count.0;
        if sizes.experts != whole.experts {
            set(raw, general, own, experts);
        }
        Ok(())
    }

    /// The config of a model with fewer coordinates of the residual stream, which is otherwise as it is.
    ///
    /// # Errors
    /// [`Error::Usage`] that says what the classes of this `model_type` cannot tell; as [`Config::from_fields`].
    pub fn with_coordinates(&self, width: usize) -> Result<Self> {
        let refuse = |reason: String| Err(self.cannot(format_args!("be narrower: {reason}")));
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
    fn by_layer(&self, raw: &mut Map<String, Value>, layers: &[LayerSizes]) {
        raw.insert("model_type".into(), json!(format!("{PRUNED_PREFIX}{}", self.architecture.model_type)));
        raw.insert("pruning".into(), json!(Pruning { layers: layers.to_vec() }));
        for (name, value) in self.architecture.forms.code.iter().flat_map(|code| code.fields(true)) {
            raw.insert(name.into(), value);
        }
    }

    /// Makes what a config says of each layer that of the layers that stay.
    fn keep_layers(&self, raw: &mut Map<String, Value>, stay: &[usize]) {
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
