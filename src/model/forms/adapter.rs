//! Low-rank matrices beside linear weights as a PEFT adapter: `adapter_config.json` and the tensors of
//! `adapter_model.safetensors`.
//!
//! The model has the weights that a stored tensor fuses apart, each with an A and a B of its own. Beside the stored
//! tensor they are one pair of the rank of all together: the A's one below the other, and the B's, each in its rows and
//! its columns, in one matrix that is zero elsewhere. PEFT is told so, by name, where that is not the usual rank.
//!
//! PEFT takes `gate_proj`, `up_proj` and `down_proj` of a mixture for those of its experts, wherever they are. So what
//! is trained of these in a mixture, dense layers and the expert that every token goes to, is named as parameters,
//! layer by layer; these PEFT adapts without dropout alone.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::{
    error::{Error, Result},
    model::{
        Config, Names, Rows,
        architecture::{Layout, Role, Weight},
    },
};

/// A and B of a linear weight, in the host's memory.
#[derive(Debug, Clone)]
pub struct LowRank {
    pub layer: usize,
    /// The stored tensor that holds the weight.
    pub spec: &'static Weight,
    pub role: Role,
    pub rank: usize,
    /// `[rank, in]`.
    pub a: Vec<f32>,
    /// `[out, rank]`.
    pub b: Vec<f32>,
}

/// A tensor of an adapter: its name, its shape and its values, row-major.
pub type AdapterTensor = (String, [usize; 2], Vec<f32>);

/// What PEFT is told of all pairs alike.
#[derive(Debug, Clone)]
pub struct AdapterForm {
    /// The model that it is for.
    pub base: String,
    pub rank: usize,
    pub alpha: f64,
    pub dropout: f64,
}

impl AdapterForm {
    /// The text of adapter_config.json and the tensors, by their names in order.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub fn write(&self, config: &Config, pairs: &[LowRank]) -> Result<(String, Vec<AdapterTensor>)> {
        let mut modules: BTreeMap<(usize, &str), Vec<&LowRank>> = BTreeMap::new();
        for pair in pairs {
            modules.entry((pair.layer, pair.spec.name)).or_default().push(pair);
        }
        let (mut tensors, mut targets, mut parameters) = (Vec::new(), Vec::new(), Vec::new());
        let (mut ranks, mut alphas, mut transposed) = (Map::new(), Map::new(), false);
        for ((layer, name), pairs) in &modules {
            let spec = pairs[0].spec;
            let rank: usize = pairs.iter().map(|pair| pair.rank).sum();
            let module = Names::of(config).layer(*layer, name);
            if config.is_mixture() && matches!(pairs[0].role, Role::Gate | Role::Up | Role::Down) {
                parameters.push(format!("{module}.weight"));
            } else if !targets.contains(name) {
                targets.push(*name);
                if rank != self.rank {
                    ranks.insert((*name).into(), rank.into());
                    // The factor stays alpha over rank.
                    alphas.insert((*name).into(), json!(self.alpha * rank as f64 / self.rank as f64));
                }
            }
            transposed |= spec.layout == Layout::Conv1d;
            let shared = config.shared_weights(*layer).into_iter().find(|(weight, _)| weight.name == *name);
            let (rows, cols) =
                shared.as_ref().map_or_else(|| config.weight_shape(spec, *layer), |(_, [rows, cols])| (*rows, *cols));
            let mut b = vec![0.0; rows * rank];
            let mut first = 0;
            for pair in pairs {
                let stored = match &shared {
                    Some(_) => Rows::Run(0..rows),
                    None => config.weight_rows(spec, pair.role, *layer),
                };
                for (row, values) in pair.b.chunks_exact(pair.rank).enumerate() {
                    let at = stored.stored(row) * rank + first;
                    b[at..at + pair.rank].copy_from_slice(values);
                }
                first += pair.rank;
            }
            let a: Vec<f32> = pairs.iter().flat_map(|pair| pair.a.iter().copied()).collect();
            tensors.push((format!("base_model.model.{module}.lora_A.weight"), [rank, cols], a));
            tensors.push((format!("base_model.model.{module}.lora_B.weight"), [rows, rank], b));
        }
        let text = serde_json::to_string_pretty(&json!({
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.base,
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": if parameters.is_empty() { self.dropout } else { 0.0 },
            "target_modules": targets,
            "target_parameters": if parameters.is_empty() { Value::Null } else { json!(parameters) },
            "rank_pattern": ranks,
            "alpha_pattern": alphas,
            "fan_in_fan_out": transposed,
            "bias": "none",
            "inference_mode": true,
            "init_lora_weights": true,
            "modules_to_save": Value::Null,
        }));
        Ok((text.map_err(Error::internal)? + "\n", tensors))
    }
}
