//! Where the weights of experts are in the files: each by itself, or those of all experts of a layer in one tensor.

use std::collections::{BTreeSet, HashMap};

use super::{
    architecture::{Role, Together, Weight},
    fused_rows::FusedRows,
    host::{HostLinear, HostMatrix},
    storage::Rows,
    tensors::{Names, TOGETHER_BIAS, TOGETHER_MXFP4, TensorSpec},
    weights::WeightStore,
};
use crate::error::{Error, Result};

impl WeightStore {
    /// Where to read the weights of an expert of a layer that is a mixture.
    ///
    /// # Errors
    /// [`crate::Error::BadTensor`].
    pub fn expert(&self, layer: usize, expert: usize) -> Result<Vec<HostLinear<'_>>> {
        let (config, names) = (&self.config, Names::of(&self.config));
        let weights = config.architecture.mixture.map_or(&[][..], |mixture| mixture.weights);
        if let Some(together) = config.architecture.mixture.and_then(|mixture| mixture.together) {
            return weights.iter().map(|spec| self.of_together(layer, expert, spec, together)).collect();
        }
        let linear = |spec: &'static Weight| {
            let (rows, cols) = config.weight_shape(spec, layer);
            let matrix = self.find(&names.expert(layer, expert, spec), &[rows, cols])?;
            Ok(HostLinear { spec, role: spec.holds[0], matrix, bias: None })
        };
        weights.iter().map(linear).collect()
    }

    /// A weight of an expert, and its bias, in the tensors of all.
    fn of_together(
        &self,
        layer: usize,
        expert: usize,
        spec: &'static Weight,
        together: Together,
    ) -> Result<HostLinear<'_>> {
        let config = &self.config;
        let count = config.layers[layer].experts.map_or(0, |experts| experts.count);
        let (role, (rows, cols)) = (spec.holds[0], config.weight_shape(spec, layer));
        let (name, first, every) = match role {
            Role::Gate => (together.gate_up, 0, 2),
            Role::Up => (together.gate_up, 1, 2),
            _ => (together.down, 0, 1),
        };
        let name = Names::of(config).layer(layer, name);
        let width = every * rows;
        let columns = |from: usize| Rows::Listed((0..rows).map(|row| from + first + every * row).collect());
        let (stored, tensor, element) = self.stored(&name, &[count, cols, width])?;
        let matrix = match tensor.transposed() {
            Some(tensor) => HostMatrix::stored(stored, tensor, columns(expert * width), cols, element, false),
            None => HostMatrix::stored(stored, tensor, columns(0), cols, element, true).below(expert * cols),
        };
        let bias = if config.has_bias(spec.bias) {
            let all = self.find(&format!("{name}{TOGETHER_BIAS}"), &[count, width])?.rows_f32(expert..expert + 1)?;
            Some(all.into_iter().skip(first).step_by(every).collect())
        } else {
            None
        };
        Ok(HostLinear { spec, role, matrix, bias })
    }

    /// Puts the tensors of all experts that the files have in MXFP4 under the names that they have otherwise.
    ///
    /// # Errors
    /// [`Error::BadTensor`] for one that misses its values or their scales, or is there in another type, too.
    pub(super) fn find_mxfp4(&mut self) -> Result<()> {
        let layers = 0..self.config.layers.len();
        let tensors = layers.flat_map(|layer| self.config.together(layer)).filter(|spec| spec.shape.len() == 3);
        let names: BTreeSet<String> = tensors.flat_map(|spec| self.candidates(&spec.name)).collect();
        let (mut wrong, mut found) = (Vec::new(), 0);
        for name in names {
            let [blocks, scales] = TOGETHER_MXFP4.map(|end| format!("{name}{end}"));
            let there = |name: &str| self.checkpoint.tensor(name).is_some();
            if !there(&blocks) && !there(&scales) {
                continue;
            }
            if there(&name) {
                let reason = format!("it is also there as {blocks}, in MXFP4; take one of them out");
                wrong.push(self.bad(&name, reason));
                continue;
            }
            found += 1;
            wrong.extend(self.checkpoint.join_mxfp4(&name, [&blocks, &scales]).err());
        }
        if found > 0 {
            self.notes.push(format!(
                "{found} tensors of experts are stored in MXFP4; they are computed with as BF16, which holds the same \
                 values"
            ));
        }
        Error::all(wrong).map_or(Ok(()), Err)
    }

    /// The tensors of experts that the files have in MXFP4, by the names that the architecture gives them, where
    /// config.json says so, too.
    pub fn in_mxfp4(&self) -> Vec<String> {
        let layers = 0..self.config.layers.len();
        let all = layers.flat_map(|layer| self.config.together(layer)).map(|spec| spec.name);
        let stored = |name: &String| self.checkpoint.tensor(&self.stored_name(name));
        let found = |name: &String| stored(name).is_some_and(|tensor| tensor.is_mxfp4());
        all.filter(|_| self.config.quantization.is_some()).filter(found).collect()
    }

    /// What is stored of an expert in such a tensor: blocks, and their scales.
    ///
    /// # Errors
    /// [`Error::BadTensor`] for a scale that is no number, or a tensor that is not there; [`Error::Read`].
    pub fn stored_mxfp4(&self, tensor: &TensorSpec, expert: usize) -> Result<[Vec<u8>; 2]> {
        let (_, tensor, _) = self.stored(&tensor.name, &tensor.shape)?;
        tensor.mxfp4(expert)
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
