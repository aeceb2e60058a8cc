//! In which types the tensors of an output are written.

use std::{collections::HashMap, fmt, sync::Arc};

use serde_json::Value;

use crate::{
    checkpoint::Dtype,
    gpu::ElementType,
    model::{Config, Names, WeightStore, architecture::Space, element_type},
};

/// In which types tensors are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Types {
    /// All in one.
    One(Dtype),
    /// Each in that of the original, by the name that the architecture gives it. What the original has not is written
    /// in the type of what it is made of: a bias in that of its weight, a head in that of the embedding, a shortcut in
    /// that of the weights that write past it.
    Own(Arc<HashMap<String, Dtype>>),
}

impl From<Dtype> for Types {
    fn from(dtype: Dtype) -> Self {
        Self::One(dtype)
    }
}

impl fmt::Display for Types {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(dtype) => write!(formatter, "{dtype:?}"),
            Self::Own(_) => formatter.write_str("each tensor's own"),
        }
    }
}

impl Types {
    /// Those of a checkpoint.
    pub fn own(store: &WeightStore) -> Self {
        let types: HashMap<String, Dtype> = store.types().collect();
        let mut all = types.values();
        match all.next() {
            Some(first) if all.all(|dtype| dtype == first) => Self::One(*first),
            Some(_) => Self::Own(Arc::new(types)),
            None => Self::One(Dtype::F32),
        }
    }

    /// The config with the type of the written tensors, where it names one and they have one.
    pub fn noted_in(&self, mut config: Config) -> Config {
        let Self::One(dtype) = self else { return config };
        let dtype = element_type(*dtype).unwrap_or(ElementType::F32).name();
        for name in ["torch_dtype", "dtype"] {
            if let Some(Value::String(stored)) = config.raw.get_mut(name) {
                *stored = dtype.into();
            }
        }
        config
    }

    /// The type of each tensor of `sliced`, in the order of [`Config::tensors`], where `config` is the original.
    pub fn of_tensors(&self, config: &Config, sliced: &Config) -> Vec<Dtype> {
        self.named(config, sliced, str::to_owned)
    }

    /// The same where the original has them under the names that `original` gives.
    pub fn named(&self, config: &Config, sliced: &Config, original: impl Fn(&str) -> String) -> Vec<Dtype> {
        let specs = sliced.tensors();
        let own = match self {
            Self::One(dtype) => return vec![*dtype; specs.len()],
            Self::Own(own) => own,
        };
        let names = Names::of(config);
        let embedding = own.get(&names.embedding()).copied().unwrap_or(Dtype::F32);
        let shortcuts = shortcuts(config, own);
        let of = |name: &str| {
            let weight = || own.get(&format!("{}.weight", name.strip_suffix(".bias")?));
            own.get(name).or_else(weight).or_else(|| shortcuts.get(name)).copied().unwrap_or(embedding)
        };
        specs.iter().map(|spec| of(&original(&spec.name))).collect()
    }
}

/// The type of the shortcut past each step of each layer: the widest of those of the weights that write beside it.
fn shortcuts(config: &Config, own: &HashMap<String, Dtype>) -> HashMap<String, Dtype> {
    let names = Names::of(config);
    let mut types = HashMap::new();
    for layer in 0..config.layers.len() {
        for step in config.layer_steps(layer) {
            let writes = step.weights().filter(|weight| weight.writes == Space::Residual);
            let written =
                writes.filter_map(|weight| own.get(&names.layer(layer, &format!("{}.weight", weight.name))).copied());
            if let Some(dtype) = written.max_by_key(Dtype::bitsize) {
                types.insert(names.shortcut(layer, step), dtype);
            }
        }
    }
    types
}
