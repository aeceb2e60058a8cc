//! How many parameters a model has, and how many of a layer are needed at once.

use super::{
    Config, TensorSpec,
    architecture::{Space, Weight},
};

impl Config {
    /// The weights of each expert of a layer in turn; none where it is no mixture.
    pub fn expert_weights(&self, layer: usize) -> impl Iterator<Item = (usize, &'static Weight)> + use<> {
        let count = self.layers[layer].experts.map_or(0, |experts| experts.count);
        let weights = self.architecture.mixture.map_or(&[][..], |mixture| mixture.weights);
        (0..count).flat_map(move |expert| weights.iter().map(move |weight| (expert, weight)))
    }

    /// The weights of the expert that every token goes to, with their sizes `[out, in]`, and last its gate; none where
    /// there is no such.
    pub fn shared_weights(&self, layer: usize) -> Vec<(&'static Weight, [usize; 2])> {
        let shared = self.architecture.mixture.and_then(|mixture| mixture.shared);
        let width = self.layers[layer].experts.and_then(|experts| experts.shared);
        let (Some(shared), Some(inner)) = (shared, width) else { return Vec::new() };
        let outer = self.hidden_size;
        let shape = |weight: &Weight| if weight.writes == Space::Residual { [outer, inner] } else { [inner, outer] };
        let weights = shared.weights.iter().map(|weight| (weight, shape(weight)));
        weights.chain([(shared.gate, [1, outer])]).collect()
    }

    /// The weights, with their sizes `[out, in]`, of an expert of a layer, and of the one that every token goes to;
    /// none of what there is not.
    pub fn kinds_of_experts(&self, layer: usize) -> Vec<Vec<(&'static Weight, (usize, usize))>> {
        let first = self.expert_weights(layer).take_while(|(expert, _)| *expert == 0);
        let own = first.map(|(_, weight)| (weight, self.weight_shape(weight, layer))).collect();
        let shared = self.shared_weights(layer).into_iter();
        vec![own, shared.map(|(weight, [rows, cols])| (weight, (rows, cols))).collect()]
    }

    /// How many parameters the matrices of a layer have.
    pub fn layer_parameters(&self, layer: usize) -> u64 {
        let experts = self.layers[layer].experts.map_or(0, |experts| experts.count);
        let (each, shared) = (self.expert_parameters(layer), self.shared_expert_parameters(layer));
        self.common_parameters(layer) + experts as u64 * each + shared
    }

    /// How many of them are on the GPU at once while tokens run through the layer: of a mixture, those of one expert.
    pub fn resident_parameters(&self, layer: usize) -> u64 {
        let expert = self.expert_parameters(layer).max(self.shared_expert_parameters(layer));
        self.common_parameters(layer) + expert
    }

    /// How many of them a token goes through: of a mixture, those of as many experts as a token goes to.
    pub fn active_parameters(&self, layer: usize) -> u64 {
        let chosen = self.layers[layer].experts.map_or(0, |experts| experts.chosen);
        let (each, shared) = (self.expert_parameters(layer), self.shared_expert_parameters(layer));
        self.common_parameters(layer) + chosen as u64 * each + shared
    }

    /// How many parameters the norms of a layer have, those of queries and keys included.
    pub fn norm_parameters(&self, layer: usize) -> usize {
        let own = if self.norm_affine { self.norms(layer).len() * self.hidden_size } else { 0 };
        let heads = self.head_norms(layer).concat().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        with_bias(own, self.norm_has_bias()) + with_bias(heads, self.qk_norm().is_some_and(|qk| qk.bias))
    }

    /// How many parameters the final norm has.
    pub fn final_norm_parameters(&self) -> usize {
        if self.norm_affine { with_bias(self.hidden_size, self.norm_has_bias()) } else { 0 }
    }

    /// How many of all layers are on the GPU at once where these stay there but for experts, which come one by one.
    pub fn kept_parameters(&self) -> u64 {
        let layers = 0..self.layers.len();
        let expert = |layer| self.expert_parameters(layer).max(self.shared_expert_parameters(layer));
        layers.clone().map(|layer| self.common_parameters(layer)).sum::<u64>() + layers.map(expert).max().unwrap_or(0)
    }

    /// How many of them are of no expert.
    fn common_parameters(&self, layer: usize) -> u64 {
        let linears = self.weights(layer).map(|weight| self.weight_shape(weight, layer));
        let shortcuts = self.shortcuts(layer).map(|(_, before, after)| (before, after));
        linears.chain(shortcuts).map(|(rows, cols)| (rows * cols) as u64).sum()
    }

    /// How many of them are of the expert that every token goes to.
    fn shared_expert_parameters(&self, layer: usize) -> u64 {
        self.shared_weights(layer).iter().map(|(_, [rows, cols])| (rows * cols) as u64).sum()
    }

    /// Parameters of one expert of a layer; 0 where it is no mixture.
    pub fn expert_parameters(&self, layer: usize) -> u64 {
        let first = self.expert_weights(layer).take_while(|(expert, _)| *expert == 0);
        first.map(|(_, weight)| self.weight_shape(weight, layer)).map(|(rows, cols)| (rows * cols) as u64).sum()
    }

    /// Parameters of the largest matrix of a layer.
    pub fn largest_matrix(&self) -> u64 {
        let layers = 0..self.layers.len();
        let sizes = layers.flat_map(|layer| {
            let expert = self.expert_weights(layer).take_while(|(expert, _)| *expert == 0).map(|(_, weight)| weight);
            let roles = self.weights(layer).chain(expert).flat_map(|weight| weight.holds);
            roles.map(move |role| self.linear_shape(*role, layer))
        });
        let shared = (0..self.layers.len()).flat_map(|layer| self.shared_weights(layer));
        let shared = shared.map(|(_, [rows, cols])| (rows, cols));
        // Of tensors with the weights of all experts, all that belongs to one of them is read at once.
        let together = (0..self.layers.len()).flat_map(|layer| self.together(layer));
        let together = together.filter(|spec| spec.shape.len() == 3).map(|spec| (spec.shape[1], spec.shape[2]));
        sizes.chain(shared).chain(together).map(|(rows, cols)| (rows * cols) as u64).max().unwrap_or(0)
    }

    /// How many parameters a checkpoint of this config has.
    pub fn parameters(&self) -> u64 {
        self.tensors().iter().map(TensorSpec::parameters).sum()
    }

    /// How many of them are in shortcuts.
    pub fn shortcut_parameters(&self) -> u64 {
        self.tensors().iter().filter(|tensor| tensor.name.ends_with("_shortcut_Q")).map(TensorSpec::parameters).sum()
    }
}

/// Parameters of a norm over `count` coordinates.
fn with_bias(count: usize, bias: bool) -> usize {
    if bias { 2 * count } else { count }
}
