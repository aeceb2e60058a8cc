//! Where the weights of experts are in the files: each by itself, or those of all experts of a layer in one tensor.

use std::collections::HashMap;

use super::{
    architecture::{Role, Weight},
    fused_rows::FusedRows,
    host::HostLinear,
    tensors::Names,
    weights::WeightStore,
};
use crate::error::Result;

impl WeightStore {
    /// Where to read the weights of an expert of a layer that is a mixture.
    ///
    /// # Errors
    /// [`crate::Error::BadTensor`].
    pub fn expert(&self, layer: usize, expert: usize) -> Result<Vec<HostLinear<'_>>> {
        let (config, names) = (&self.config, Names::of(&self.config));
        let weights = config.architecture.mixture.map_or(&[][..], |mixture| mixture.weights);
        let linear = |spec: &'static Weight| {
            let (rows, cols) = config.weight_shape(spec, layer);
            let matrix = self.find(&names.expert(layer, expert, spec), &[rows, cols])?;
            Ok(HostLinear { spec, role: spec.holds[0], matrix, bias: None })
        };
        weights.iter().map(linear).collect()
    }

    /// Where to read the weights of the expert that every token goes to, and last its gate; none without such.
    ///
    /// # Errors
    /// [`crate::Error::BadTensor`].
    pub fn shared_expert(&self, layer: usize) -> Result<Vec<HostLinear<'_>>> {
        let names = Names::of(&self.config);
        let linear = |(spec, shape): (&'static Weight, [usize; 2])| {
            let matrix = self.find(&names.layer(layer, &format!("{}.weight", spec.name)), &shape)?;
            Ok(HostLinear { spec, role: spec.holds[0], matrix, bias: None })
        };
        self.config.shared_weights(layer).into_iter().map(linear).collect()
    }

    /// The tensors of mixtures that the files have under the names, and in the form, that transformers has them in
    /// memory: those of all experts in one.
    pub(super) fn fused_experts(&self) -> HashMap<String, FusedRows> {
        let (config, names) = (&self.config, Names::of(&self.config));
        let mut found = HashMap::new();
        let Some((mixture, fused)) = config.architecture.mixture.and_then(|mixture| Some((mixture, mixture.fused?)))
        else {
            return found;
        };
        let is_there = |name: &str| self.checkpoint.tensor(&self.stored_name(name)).is_some();
        for (layer, spec) in config.layers.iter().enumerate() {
            let Some(experts) = spec.experts else { continue };
            let (count, inner, width) = (experts.count, spec.intermediate_size, config.hidden_size);
            let of = |role: Role| match role {
                Role::Gate => (fused.gate_up, [count, 2 * inner, width], 0, inner),
                Role::Up => (fused.gate_up, [count, 2 * inner, width], inner, inner),
                _ => (fused.down, [count, width, inner], 0, width),
            };
            let whole = [fused.gate_up, fused.down].map(|name| is_there(&names.layer(layer, name)));
            for (expert, weight) in config.expert_weights(layer).filter(|_| whole.contains(&true)) {
                let (tensor, shape, first, rows) = of(weight.holds[0]);
                let (name, tensor) = (names.expert(layer, expert, weight), names.layer(layer, tensor));
                if !is_there(&name) && is_there(&tensor) {
                    let first = expert * shape[1] + first;
                    found.insert(name, FusedRows { tensor, shape: shape.to_vec(), rows: first..first + rows });
                }
            }
            for router in mixture.blocks.iter().flat_map(|block| block.weights) {
                if router.holds == [Role::Router] {
                    let name = names.layer(layer, &format!("{}.weight", router.name));
                    let tensor = names.layer(layer, &format!("{}.weight", fused.router));
                    if name != tensor && !is_there(&name) && is_there(&tensor) {
                        found.insert(name, FusedRows { tensor, shape: vec![count, width], rows: 0..count });
                    }
                }
            }
        }
        found
    }
}
