//! The tensors of a GGUF file: their names, and how their rows come from the checkpoint.

use super::metadata::{frequency_factors, stem};
use crate::{
    checkpoint::{GgufTensor, GgufType},
    error::{Error, Result},
    model::{
        Config, HostEnds, HostLayer, HostMatrix, HostNorm, WeightStore,
        architecture::{BlockKind, Role},
        forms::Gguf,
        side_by_side,
    },
};

/// About this many bytes of a matrix are in memory at a time.
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
    /// Of a layer: the norm before its attention, or before its MLP.
    Norm(usize, BlockKind),
    /// The norms of what these make.
    NormAfter(usize, BlockKind),
    /// Of a layer: the norm of its queries (0) or its keys (1).
    HeadNorm(usize, usize),
    Weight(usize, Role),
    /// Of all experts of a layer.
    Experts(usize, Role),
    /// Of the expert of a layer that every token goes to: which of its weights.
    Shared(usize, usize),
    Bias(usize, Role),
}

/// Every tensor of the file, in order: matrices in `kind` where their width allows it, vectors in f32.
pub fn entries(config: &Config, target: Gguf, kind: GgufType) -> Result<Vec<Entry>> {
    let mut list = Vec::new();
    let mut add = |name: String, shape: &[usize], source| {
        let kind = match (shape, &source) {
            // What rounding it may do is send a token elsewhere; llama.cpp's converter leaves it, too.
            (_, Source::Weight(_, Role::Router)) => GgufType::F32,
            ([_, .., width], _) if kind.fits(*width) => kind,
            ([_, _, ..], _) => GgufType::F16,
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
    for layer in 0..config.layers.len() {
        let name = |stem: &str, end: &str| format!("blk.{layer}.{stem}.{end}");
        let attention = config.blocks(layer).iter().find(|block| block.kind == BlockKind::Attention);
        if attention.is_some_and(|block| block.norm.is_some()) {
            add(name("attn_norm", "weight"), &[d], Source::Norm(layer, BlockKind::Attention));
        }
        if attention.is_some_and(|block| block.norm_after.is_some()) {
            add(name("post_attention_norm", "weight"), &[d], Source::NormAfter(layer, BlockKind::Attention));
        }
        for weight in config.weights(layer) {
            for role in weight.holds {
                let (rows, cols) = config.linear_shape(*role, layer);
                add(name(stem(*role), "weight"), &[rows, cols], Source::Weight(layer, *role));
                if config.linear_bias(weight) {
                    add(name(stem(*role), "bias"), &[rows], Source::Bias(layer, *role));
                }
            }
        }
        for (_, weight) in config.expert_weights(layer).take_while(|(expert, _)| *expert == 0) {
            let count = config.layers[layer].experts.map_or(0, |experts| experts.count);
            for role in weight.holds {
                let (rows, cols) = config.linear_shape(*role, layer);
                let stem = format!("{}_exps", stem(*role));
                add(name(&stem, "weight"), &[count, rows, cols], Source::Experts(layer, *role));
            }
        }
        for (which, (weight, [rows, cols])) in config.shared_weights(layer).into_iter().enumerate() {
            let stem = format!("{}_shexp", stem(weight.holds[0]));
            let shape = if weight.holds == [Role::Router] { &[cols][..] } else { &[rows, cols] };
            add(name(&stem, "weight"), shape, Source::Shared(layer, which));
        }
        if config.qk_norm {
            for (which, stored) in config.head_norms(layer).into_iter().enumerate() {
                let width = stored.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
                add(name(["attn_q_norm", "attn_k_norm"][which], "weight"), &[width], Source::HeadNorm(layer, which));
            }
        }
        let mlp = config.blocks(layer).iter().find(|block| block.kind != BlockKind::Attention);
        if let Some(block) = mlp.filter(|block| block.norm.is_some()) {
            add(name("ffn_norm", "weight"), &[d], Source::Norm(layer, block.kind));
        }
        if let Some(block) = mlp.filter(|block| block.norm_after.is_some()) {
            add(name("post_ffw_norm", "weight"), &[d], Source::NormAfter(layer, block.kind));
        }
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
            Source::Norm(layer, _)
            | Source::NormAfter(layer, _)
            | Source::HeadNorm(layer, _)
            | Source::Weight(layer, _)
            | Source::Experts(layer, _)
            | Source::Shared(layer, _)
            | Source::Bias(layer, _) => Some(layer),
            Source::Embedding | Source::Head | Source::FinalNorm | Source::FrequencyFactors => None,
        }
    }

    /// Hands over the rows of the tensor in their order in the file, a few at a time. `layer` has the weights of
    /// [`Entry::layer`].
    pub fn each_rows(
        &self,
        store: &WeightStore,
        target: Gguf,
        ends: &HostEnds,
        layer: Option<&HostLayer>,
        mut each: impl FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let config = &store.config;
        let missing = || Error::shape("export", format!("{} is not in the checkpoint", self.tensor.name));
        let linear = |role: Role| {
            let found = layer.and_then(|layer| layer.linears().find(|linear| linear.role == role));
            found.ok_or_else(missing)
        };
        let interleaved = |role: Role| target.interleaved && matches!(role, Role::Query | Role::Key);
        let head_dim = self.layer().map_or(0, |layer| config.layers[layer].head_dim);
        match self.source {
            // The head has no factor of embedded tokens in it, which llama.cpp knows of itself.
            Source::Embedding if config.architecture.gguf_own.tied => in_order(&ends.head, each),
            Source::Embedding => in_order(&ends.embedding, each),
            Source::Head => in_order(&ends.head, each),
            Source::FinalNorm => each(&ends.final_norm.as_ref().ok_or_else(missing)?.weight),
            Source::FrequencyFactors => each(&frequency_factors(config).ok_or_else(missing)?),
            Source::Norm(_, kind) => {
                let block = layer.and_then(|layer| layer.blocks().find(|block| block.spec.kind == kind));
                each(&block.and_then(|block| block.norm.as_ref()).ok_or_else(missing)?.weight)
            }
            Source::NormAfter(_, kind) => {
                let block = layer.and_then(|layer| layer.blocks().find(|block| block.spec.kind == kind));
                each(&block.and_then(|block| block.norm_after.as_ref()).ok_or_else(missing)?.weight)
            }
            Source::HeadNorm(_, which) => {
                let norms: Option<&[HostNorm; 2]> =
                    layer.and_then(|layer| layer.blocks().find_map(|block| block.head_norms.as_ref()));
                each(&norms.ok_or_else(missing)?[which].weight)
            }
            Source::Weight(_, role) if interleaved(role) => {
                let matrix = &linear(role)?.matrix;
                (0..matrix.rows / head_dim).try_for_each(|head| {
                    let first = head * head_dim;
                    each(&interleave(&matrix.rows_f32(first..first + head_dim)?, head_dim))
                })
            }
            Source::Experts(layer, role) => {
                let count = config.layers[layer].experts.map_or(0, |experts| experts.count);
                (0..count).try_for_each(|expert| {
                    let linears = store.expert(layer, expert)?;
                    let linear = linears.iter().find(|linear| linear.role == role).ok_or_else(missing)?;
                    in_order(&linear.matrix, &mut each)
                })
            }
            Source::Shared(layer, which) => {
                let linears = store.shared_expert(layer)?;
                in_order(&linears.get(which).ok_or_else(missing)?.matrix, each)
            }
            Source::Weight(_, role) => in_order(&linear(role)?.matrix, each),
            Source::Bias(_, role) => {
                let bias = linear(role)?.bias.as_ref().ok_or_else(missing)?;
                if !interleaved(role) {
                    return each(bias);
                }
                each(&bias.chunks(head_dim).flat_map(|head| interleave(head, head_dim)).collect::<Vec<_>>())
            }
        }
    }
}

fn in_order(matrix: &HostMatrix, mut each: impl FnMut(&[f32]) -> Result<()>) -> Result<()> {
    let together = (PIECE_BYTES / (4 * matrix.cols)).max(1);
    (0..matrix.rows)
        .step_by(together)
        .try_for_each(|first| each(&matrix.rows_f32(first..(first + together).min(matrix.rows))?))
}

/// The rows of one head, `[head_dim, any]`, with the coordinates that turn together side by side.
fn interleave(head: &[f32], head_dim: usize) -> Vec<f32> {
    let width = head.len() / head_dim;
    let mut interleaved = vec![0.0; head.len()];
    for (row, values) in head.chunks_exact(width).enumerate() {
        interleaved[side_by_side(row, head_dim / 2) * width..][..width].copy_from_slice(values);
    }
    interleaved
}
