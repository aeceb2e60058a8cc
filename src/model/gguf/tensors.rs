//! The tensors of a GGUF file: their names, and how their rows come from the checkpoint.

use super::metadata::{frequency_factors, stem};
use crate::{
    checkpoint::{GgufTensor, GgufType},
    error::{Error, Result},
    model::{
        Config, HostEnds, HostLayer, HostMatrix,
        architecture::{Gguf, Role, Weight},
    },
};

/// About so many bytes of a matrix are in memory at a time.
const PIECE_BYTES: usize = 4 << 20;

/// A tensor of the file and where its values are.
pub struct Entry {
    pub tensor: GgufTensor,
    source: Source,
}

#[derive(Clone, Copy)]
enum Source {
    Embedding,
    Head,
    FinalNorm,
    FrequencyFactors,
    /// Of a layer: the norm before its attention (0) or its MLP (1).
    Norm(usize, usize),
    /// Of a layer: the norm of its queries (0) or its keys (1).
    HeadNorm(usize, usize),
    Weight(usize, &'static Weight),
    Bias(usize, &'static Weight),
}

/// Every tensor of the file, in order: matrices in `kind` where their width allows it, vectors in f32.
pub fn entries(config: &Config, target: Gguf, kind: GgufType) -> Result<Vec<Entry>> {
    let mut list = Vec::new();
    let mut add = |name: String, shape: &[usize], source| {
        let kind = match shape {
            [_, width] if kind.fits(*width) => kind,
            [_, _] => GgufType::F16,
            _ => GgufType::F32,
        };
        list.push(Entry { tensor: GgufTensor { name, shape: shape.to_vec(), kind }, source });
    };
    let d = config.hidden_size;
    add("token_embd.weight".into(), &[config.vocab_size, d], Source::Embedding);
    if target.frequency_factors
        && let Some(factors) = frequency_factors(config)
    {
        add("rope_freqs.weight".into(), &[factors.len()], Source::FrequencyFactors);
    }
    for layer in 0..config.num_hidden_layers {
        let name = |stem: &str, end: &str| format!("blk.{layer}.{stem}.{end}");
        add(name("attn_norm", "weight"), &[d], Source::Norm(layer, 0));
        for weight in config.architecture.layer {
            let stem = stem(weight.role).ok_or_else(|| Error::shape("export", format!("{} has no name in gguf", weight.name)))?;
            let (rows, cols) = config.linear_shape(weight, layer);
            add(name(stem, "weight"), &[rows, cols], Source::Weight(layer, weight));
            if config.linear_bias(weight) {
                add(name(stem, "bias"), &[rows], Source::Bias(layer, weight));
            }
        }
        if config.qk_norm {
            add(name("attn_q_norm", "weight"), &[config.head_dim], Source::HeadNorm(layer, 0));
            add(name("attn_k_norm", "weight"), &[config.head_dim], Source::HeadNorm(layer, 1));
        }
        add(name("ffn_norm", "weight"), &[d], Source::Norm(layer, 1));
    }
    add("output_norm.weight".into(), &[d], Source::FinalNorm);
    if !config.tie_word_embeddings {
        add("output.weight".into(), &[config.vocab_size, d], Source::Head);
    }
    Ok(list)
}

impl Entry {
    /// The layer it belongs to.
    pub fn layer(&self) -> Option<usize> {
        match self.source {
            Source::Norm(layer, _) | Source::HeadNorm(layer, _) | Source::Weight(layer, _) | Source::Bias(layer, _) => Some(layer),
            Source::Embedding | Source::Head | Source::FinalNorm | Source::FrequencyFactors => None,
        }
    }

    /// Hands over the rows of the tensor in their order in the file, a few at a time. `layer` has the weights of [`Entry::layer`].
    pub fn each_rows(
        &self,
        config: &Config,
        target: Gguf,
        ends: &HostEnds,
        layer: Option<&HostLayer>,
        mut each: impl FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let missing = || Error::shape("export", format!("{} is not in the checkpoint", self.tensor.name));
        let linear =
            |weight: &Weight| layer.and_then(|layer| layer.linears.iter().find(|linear| linear.spec.role == weight.role)).ok_or_else(missing);
        let turned = |weight: &Weight| target.interleaved && matches!(weight.role, Role::Query | Role::Key);
        match self.source {
            Source::Embedding => in_order(&ends.embedding, each),
            Source::Head => in_order(&ends.head, each),
            Source::FinalNorm => each(&ends.final_norm.as_ref().ok_or_else(missing)?.weight),
            Source::FrequencyFactors => each(&frequency_factors(config).ok_or_else(missing)?),
            Source::Norm(_, half) => each(&layer.and_then(|layer| layer.norms[half].as_ref()).ok_or_else(missing)?.weight),
            Source::HeadNorm(_, which) => each(&layer.and_then(|layer| layer.head_norms.as_ref()).ok_or_else(missing)?[which].weight),
            Source::Weight(_, weight) if turned(weight) => {
                let matrix = &linear(weight)?.matrix;
                (0..matrix.rows / config.head_dim).try_for_each(|head| {
                    let first = head * config.head_dim;
                    each(&interleave(&matrix.rows_f32(first..first + config.head_dim)?, config.head_dim))
                })
            }
            Source::Weight(_, weight) => in_order(&linear(weight)?.matrix, each),
            Source::Bias(_, weight) => {
                let bias = linear(weight)?.bias.as_ref().ok_or_else(missing)?;
                if !turned(weight) {
                    return each(bias);
                }
                each(&bias.chunks(config.head_dim).flat_map(|head| interleave(head, config.head_dim)).collect::<Vec<_>>())
            }
        }
    }
}

fn in_order(matrix: &HostMatrix, mut each: impl FnMut(&[f32]) -> Result<()>) -> Result<()> {
    let together = (PIECE_BYTES / (4 * matrix.cols)).max(1);
    (0..matrix.rows).step_by(together).try_for_each(|first| each(&matrix.rows_f32(first..(first + together).min(matrix.rows))?))
}

/// The rows of one head, `[head_dim, any]`, so ordered that coordinates which turn together are neighbours: row `2i + j` was row `j·head_dim/2 + i`.
fn interleave(head: &[f32], head_dim: usize) -> Vec<f32> {
    let width = head.len() / head_dim;
    let row = |row: usize| &head[row * width..(row + 1) * width];
    (0..head_dim).flat_map(|to| row((to % 2) * head_dim / 2 + to / 2).iter().copied()).collect()
}
