//! The Python files by which transformers loads a sliced or a pruned checkpoint with `trust_remote_code=True`.

use serde_json::Value;

use crate::model::Config;

impl Config {
    /// The Python files that belong beside this config, with their contents; none beside one that transformers knows,
    /// or whose layers its class of this `model_type` has no form for.
    pub fn python_files(&self) -> &'static [(&'static str, &'static str)] {
        match &self.architecture.forms.code {
            Some(code) if self.fused() => code.sliced,
            Some(code) if self.pruned && self.shares_keys_as_its_class() && self.has_windows_of_class() => code.pruned,
            _ => &[],
        }
    }

    /// Whether no layer has queries that share a key where the class in transformers gives each its own.
    fn shares_keys_as_its_class(&self) -> bool {
        let fields = &self.architecture.fields;
        let is_true = |(name, default)| self.raw.get(name).map_or(default, |value| *value == Value::Bool(true));
        let one_key = fields.multi_query.is_some_and(is_true);
        fields.num_key_value_heads.is_some() || one_key || self.layers.iter().all(|layer| layer.kv_heads == layer.heads)
    }
}
