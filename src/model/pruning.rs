//! The `pruning` section that config.json has where layers differ in their heads or in the width of their MLPs.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{architecture::Role, layer_spec::LayerSpec};
use crate::error::{Error, Result};

/// The sizes of what is left of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerSizes {
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub intermediate_size: usize,
    /// Of a layer that is a mixture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_experts: Option<usize>,
}

impl From<&LayerSpec> for LayerSizes {
    fn from(spec: &LayerSpec) -> Self {
        Self {
            num_attention_heads: spec.heads,
            num_key_value_heads: spec.kv_heads,
            intermediate_size: spec.intermediate_size,
            num_experts: spec.experts.map(|experts| experts.count),
        }
    }
}

/// What is left of one layer, by numbers in the original.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub layer: usize,
    pub query_heads: Vec<usize>,
    pub key_value_heads: Vec<usize>,
    pub mlp_channels: Vec<usize>,
    /// None where the layer is no mixture.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub experts: Vec<usize>,
}

impl Kept {
    /// All of a layer.
    pub fn all(layer: usize, spec: &LayerSpec) -> Self {
        Self {
            layer,
            query_heads: (0..spec.heads).collect(),
            key_value_heads: (0..spec.kv_heads).collect(),
            mlp_channels: (0..spec.intermediate_size).collect(),
            experts: (0..spec.experts.map_or(0, |experts| experts.count)).collect(),
        }
    }

    /// The channels of a weight's rows, or of the columns of one that writes the residual stream, that are left of a
    /// layer of these sizes.
    pub fn channels(&self, role: Role, spec: &LayerSpec) -> Vec<usize> {
        let h = spec.head_dim;
        let of_heads = |heads: &[usize]| heads.iter().flat_map(|head| head * h..(head + 1) * h).collect();
        match role {
            // The heads of a gated delta net stay.
            Role::Output if spec.delta.is_some() => (0..spec.heads_width()).collect(),
            Role::OutputGate if spec.delta.is_some() => (0..spec.heads_width()).collect(),
            Role::Mixed | Role::Beta | Role::Decay => (0..spec.rows(role)).collect(),
            Role::Query | Role::Output | Role::OutputGate => of_heads(&self.query_heads),
            Role::Key | Role::Value => of_heads(&self.key_value_heads),
            Role::Gate | Role::Up | Role::Down => self.mlp_channels.clone(),
            Role::Router => self.experts.clone(),
        }
    }

    /// How many there are.
    pub fn sizes(&self) -> LayerSizes {
        LayerSizes {
            num_attention_heads: self.query_heads.len(),
            num_key_value_heads: self.key_value_heads.len(),
            intermediate_size: self.mlp_channels.len(),
            num_experts: Some(self.experts.len()).filter(|&count| count > 0),
        }
    }
}

/// The groups `kept`, without the `leave` least important ones; of equals, those before others leave.
pub fn without_lowest(importance: &[f64], kept: &[usize], leave: usize) -> Vec<usize> {
    let mut order = kept.to_vec();
    order.sort_by(|&a, &b| importance[a].total_cmp(&importance[b]));
    let mut stay = order.split_off(leave.min(order.len()));
    stay.sort_unstable();
    stay
}

/// The sizes of every layer; those beside the section are the dense model's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pruning {
    pub layers: Vec<LayerSizes>,
}

impl Pruning {
    /// Reads the section, and gives the layers its sizes.
    ///
    /// # Errors
    /// [`Error::BadFile`] if it is missing, or does not fit the `layers` of the dense model.
    pub(super) fn apply(fields: &Map<String, Value>, path: &Path, layers: &mut [LayerSpec]) -> Result<()> {
        let bad = |reason: String| Error::bad_file(path, format!("pruning: {reason}"));
        let section = fields.get("pruning").ok_or_else(|| bad("a pruned model without this section".into()))?;
        let pruning: Self = serde_json::from_value(section.clone()).map_err(|error| bad(error.to_string()))?;
        if pruning.layers.len() != layers.len() {
            return Err(bad(format!("expected the sizes of {} layers, found {}", layers.len(), pruning.layers.len())));
        }
        for (index, (layer, sizes)) in layers.iter_mut().zip(&pruning.layers).enumerate() {
            let LayerSizes { num_attention_heads: heads, num_key_value_heads: kv_heads, intermediate_size, .. } =
                *sizes;
            if let Some(number) = sizes.num_experts {
                let chosen =
                    layer.experts.as_mut().filter(|experts| (experts.chosen..=experts.count).contains(&number));
                let experts = chosen.ok_or_else(|| {
                    bad(format!(
                        "layer {index} has {number} experts; expected as many as a token goes to, and no more \
                         than before"
                    ))
                })?;
                experts.count = number;
            }
            let whole = (layer.heads, layer.kv_heads, layer.intermediate_size);
            let fits = (1..=whole.0).contains(&heads)
                && (1..=whole.1).contains(&kv_heads)
                && (1..=whole.2).contains(&intermediate_size);
            if !fits || !heads.is_multiple_of(kv_heads) {
                let found = (heads, kv_heads, intermediate_size);
                return Err(bad(format!(
                    "layer {index} has {found:?} attention heads, key-value heads and MLP channels, of {whole:?}; \
                     expected at least one of each, and as many queries for every key"
                )));
            }
            (layer.heads, layer.kv_heads, layer.intermediate_size) = (heads, kv_heads, intermediate_size);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_important_leave_and_those_before_equals() {
        assert_eq!(without_lowest(&[3.0, 1.0, 2.0, 1.0], &[0, 1, 2, 3], 2), [0, 2]);
        assert_eq!(without_lowest(&[1.0, 1.0, 1.0], &[0, 1, 2], 1), [1, 2]);
        assert_eq!(without_lowest(&[0.0, 5.0, 4.0], &[1, 2], 1), [1], "what has left counts no more");
    }
}
