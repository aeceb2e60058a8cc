//! Gated delta nets as llama.cpp has them. Value heads that share a key head follow one another in a checkpoint; there,
//! they are as far apart as there are key heads. Of the rate of a head, a checkpoint has the logarithm.

use super::names::stem;
use crate::{
    error::Result,
    model::{
        Config, DeltaNet, HostMatrix, LayerSpec, Names, TensorSpec,
        architecture::{Role, Weight},
    },
};

/// Of the convolution, which is always in f32.
pub const CONVOLUTION: &str = "ssm_conv1d.weight";

/// What there is beside the linear weights, in the order of [`Config::delta_tensors`].
const BESIDE: [&str; 4] = [CONVOLUTION, "ssm_a", "ssm_dt.bias", "ssm_norm.weight"];

/// A tensor here and there.
pub struct DeltaTensor {
    pub ours: TensorSpec,
    /// Its name within the layer there.
    pub theirs: String,
    /// Its shape there.
    pub shape: Vec<usize>,
    pub turn: Turn,
    /// Whether it has −exp of the values here.
    pub rates: bool,
}

/// What is in another order there.
pub enum Turn {
    Nothing,
    Rows(Heads),
    Columns(Heads),
}

/// Rows or columns of value heads, after some that are of none. Their numbers are listed only when they are asked for:
/// a file may say that there are any number of them, until its tensors have been looked at.
pub struct Heads {
    before: usize,
    /// Of each head.
    width: usize,
    key_heads: usize,
    value_heads: usize,
}

impl Heads {
    /// For each place there, the place here.
    fn here(&self) -> Vec<usize> {
        let Self { before, width, key_heads, value_heads } = *self;
        let group = value_heads / key_heads.max(1);
        let of_heads = (0..value_heads).flat_map(|head| {
            let here = head % key_heads * group + head / key_heads;
            (0..width).map(move |at| before + here * width + at)
        });
        (0..before).chain(of_heads).collect()
    }

    /// For each place here, the place there.
    pub fn there(&self) -> Vec<usize> {
        let here = self.here();
        let mut there = vec![0; here.len()];
        here.into_iter().enumerate().for_each(|(at, here)| there[here] = at);
        there
    }
}

/// Whether a linear weight is one of [`tensors`].
pub fn holds(spec: &LayerSpec, weight: &Weight) -> bool {
    use Role::{Beta, Decay, Mixed, Output, OutputGate};
    spec.delta.is_some() && weight.holds.iter().any(|role| [Mixed, OutputGate, Beta, Decay, Output].contains(role))
}

/// Those of a layer; none where it has attention.
pub fn tensors(config: &Config, layer: usize) -> Vec<DeltaTensor> {
    let spec = &config.layers[layer];
    let (Some(DeltaNet { shape, .. }), Some(beside)) = (spec.delta, config.delta_tensors(layer)) else {
        return Vec::new();
    };
    let names = Names::of(config);
    let (key_heads, value_heads) = (shape.key_heads, shape.value_heads);
    let heads = |before: usize, width: usize| Heads { before, width, key_heads, value_heads };
    let (keys, width) = (2 * shape.key_heads * shape.key_dim, shape.value_dim);
    let mut list = Vec::new();
    for weight in config.weights(layer).filter(|weight| holds(spec, weight)) {
        let role = weight.holds[0];
        let turn = match role {
            Role::Mixed => Turn::Rows(heads(keys, width)),
            Role::Output => Turn::Columns(heads(0, width)),
            Role::OutputGate => Turn::Rows(heads(0, width)),
            _ => Turn::Rows(heads(0, 1)),
        };
        let (rows, cols) = config.weight_shape(weight, layer);
        let name = names.layer(layer, &format!("{}.weight", weight.name));
        let stem = if role == Role::Output { "ssm_out" } else { stem(role) };
        list.push(DeltaTensor {
            ours: TensorSpec { name, shape: vec![rows, cols] },
            theirs: format!("{stem}.weight"),
            shape: vec![rows, cols],
            turn,
            rates: false,
        });
    }
    let turns = [Turn::Rows(heads(keys, width)), Turn::Rows(heads(0, 1)), Turn::Rows(heads(0, 1)), Turn::Nothing];
    for (at, (((name, shape), theirs), turn)) in beside.into_iter().zip(BESIDE).zip(turns).enumerate() {
        // Each channel of the convolution is a filter by itself, which is a dimension here.
        let there = shape.iter().copied().enumerate().filter(|(dimension, _)| shape.len() < 3 || *dimension != 1);
        list.push(DeltaTensor {
            shape: there.map(|(_, size)| size).collect(),
            ours: TensorSpec { name: names.layer(layer, &name), shape },
            theirs: theirs.into(),
            turn,
            rates: at == 1,
        });
    }
    list
}

impl DeltaTensor {
    /// Hands over the values there, some rows at a time; `matrix` is what is here.
    ///
    /// # Errors
    /// Those of reading, and of `each`.
    pub fn each_rows(
        &self,
        matrix: &HostMatrix,
        together: usize,
        mut each: impl FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let mut each = |values: Vec<f32>| match self.rates {
            true => each(&values.iter().map(|value| -f64::from(*value).exp() as f32).collect::<Vec<_>>()),
            false => each(&values),
        };
        match &self.turn {
            Turn::Rows(heads) if self.shape.len() == 1 => {
                let values = matrix.rows_f32(0..matrix.rows)?;
                each(heads.here().iter().map(|here| values[*here]).collect())
            }
            Turn::Rows(heads) => heads.here().chunk_by(|one, next| one + 1 == *next).try_for_each(|run| {
                run.chunks(together).try_for_each(|rows| each(matrix.rows_f32(rows[0]..rows[0] + rows.len())?))
            }),
            Turn::Columns(heads) => {
                let order = heads.here();
                (0..matrix.rows).step_by(together).try_for_each(|first| {
                    let values = matrix.rows_f32(first..(first + together).min(matrix.rows))?;
                    each(values.chunks(matrix.cols).flat_map(|row| order.iter().map(|here| row[*here])).collect())
                })
            }
            Turn::Nothing => each(matrix.rows_f32(0..matrix.rows)?),
        }
    }
}
