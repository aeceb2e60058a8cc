//! The table and a checkpoint → the weights of one layer. The only place that spells tensor names.

use std::collections::HashMap;

use super::{
    architecture::{Block, BlockKind, Layout, QkNorm, QkSpan, Role, Weight},
    config::Config,
    fused_rows::FusedRows,
    host::{HostBlock, HostDeltaNet, HostEnds, HostLayer, HostLinear, HostMatrix, HostNorm, HostStep, RowNorm},
    layer_spec::Step,
    storage::Rows,
    stored_vocabulary::StoredVocabulary,
    tensors::{Names, TensorSpec},
};
use crate::{
    checkpoint::{Checkpoint, Dtype, Tensor},
    error::{Error, Result, shortened},
    gpu::ElementType,
};

/// Enough tensors that are wrong to say so: a mixture has thousands.
const MOST_WRONG: usize = 100;

/// A config and the checkpoint with its tensors.
pub struct WeightStore {
    pub config: Config,
    pub checkpoint: Checkpoint,
    pub(super) notes: Vec<String>,
    /// Where only some rows of the embedding and the head count.
    pub(super) vocabulary: Option<StoredVocabulary>,
    /// Tensors that are rows of one of all experts, by the names that the architecture gives them.
    pub(super) fused: HashMap<String, FusedRows>,
}

impl WeightStore {
    /// Checks that every tensor is there, in a floating-point type and the right shape.
    ///
    /// # Errors
    /// [`Error::BadTensor`] that names the one that is not, [`Error::Several`] for more of them; [`Error::Read`].
    pub fn new(config: Config, checkpoint: Checkpoint) -> Result<Self> {
        let mut store = Self { config, checkpoint, notes: Vec::new(), vocabulary: None, fused: HashMap::new() };
        store.find_mxfp4()?;
        store.fused = store.fused_experts();
        store.resolve_head()?;
        let check = |spec: TensorSpec| {
            let found = store.find(&spec.name, &spec.shape).map(drop);
            found.and_then(|()| store.check_single(&spec.name)).err()
        };
        let wrong = store.config.tensors().into_iter().filter_map(check).take(MOST_WRONG).collect();
        if let Some(error) = Error::all(wrong) {
            return Err(error);
        }
        store.note_wide();
        if let Some(part) = store.config.part_of {
            let others = store.checkpoint.names().filter(|name| part.is_other(name)).count();
            let (whole, text) = (part.model_type, store.config.architecture.model_type);
            store.notes.push(format!(
                "of this {whole}, the text part is taken, a {text}: {others} tensors of other parts are left out of \
                 what is written"
            ));
        }
        if let Some(head) = store.classifier() {
            store
                .notes
                .push(format!("this is a classifier: its {head} is left out, and its tied head writes text instead"));
        }
        Ok(store)
    }

    /// What the user should know about the files and their tensors.
    pub fn notes(&self) -> impl Iterator<Item = &str> {
        self.checkpoint.notes().iter().chain(&self.notes).map(String::as_str)
    }

    /// The type that each tensor is written in by default, by the name that the architecture gives it: its own, F32 for
    /// F64, and F16 for what is quantised.
    pub fn types(&self) -> impl Iterator<Item = (String, Dtype)> {
        self.types_by(|tensor| tensor.written)
    }

    fn types_by(&self, of: fn(&Tensor) -> Dtype) -> impl Iterator<Item = (String, Dtype)> {
        self.config.tensors().into_iter().map(move |spec| {
            let stored = self.checkpoint.tensor(&self.stored_name(&spec.name)).map(|tensor| of(&tensor));
            (spec.name, stored.filter(|dtype| *dtype != Dtype::F64).unwrap_or(Dtype::F32))
        })
    }

    /// Bytes of a value of the widest of the types that tensors are read in.
    pub fn element_size(&self) -> usize {
        self.types_by(|tensor| tensor.dtype).map(|(_, dtype)| dtype.bitsize() / 8).max().unwrap_or(4)
    }

    /// Tensors of the checkpoint that the config does not call for, and that would be lost.
    pub fn unexpected(&self) -> Vec<String> {
        let known = self.all_stored_names();
        // Masks, frequencies and positions that old checkpoints carry.
        let harmless = [
            "attn.bias",
            "attn.masked_bias",
            "attention.bias",
            "attention.masked_bias",
            "rotary_emb.inv_freq",
            "position_ids",
        ];
        let other = |name: &str| self.config.part_of.is_some_and(|part| part.is_other(name));
        let lost =
            |name: &&str| !known.contains(*name) && !harmless.iter().any(|end| name.ends_with(end)) && !other(name);
        self.checkpoint.names().filter(lost).map(str::to_owned).collect()
    }

    /// Reads every tensor, a few rows at a time; `each` is called after each of them.
    ///
    /// # Errors
    /// [`crate::Error::BadTensor`] if a value is NaN or infinite; [`crate::Error::Read`]; those of `each`.
    pub fn check_values(&self, mut each: impl FnMut() -> Result<()>) -> Result<()> {
        for spec in self.config.tensors() {
            let matrix = self.find(&spec.name, &spec.shape)?;
            let together = ((4 << 20) / (matrix.cols * matrix.element.size())).max(1);
            (0..matrix.rows)
                .step_by(together)
                .try_for_each(|first| matrix.row_bytes(first..(first + together).min(matrix.rows)).map(drop))?;
            each()?;
        }
        Ok(())
    }

    /// A tensor as it is stored, by the name that the architecture gives it.
    ///
    /// # Errors
    /// [`crate::Error::BadTensor`] if it is not there, or of another shape.
    pub fn whole(&self, TensorSpec { name, shape }: &TensorSpec) -> Result<HostMatrix<'_>> {
        self.find(name, shape)
    }

    /// A whole tensor of this name and shape.
    pub(super) fn find(&self, name: &str, shape: &[usize]) -> Result<HostMatrix<'_>> {
        if let (Some(FusedRows { tensor, shape: whole, rows }), [_, cols]) = (self.fused.get(name), shape) {
            let (stored, tensor, element) = self.stored(tensor, whole)?;
            return Ok(HostMatrix::stored(stored, tensor, Rows::Run(rows.clone()), *cols, element, false));
        }
        let (whole, rows) = self.stored_shape(name, shape);
        let (stored, tensor, element) = self.stored(name, &whole)?;
        let cols = match (shape, &rows) {
            ([_, .., cols], _) => *cols,
            // A vector of which some values count.
            (_, Rows::Listed(_)) => 1,
            _ => shape[0],
        };
        Ok(HostMatrix::stored(stored, tensor, rows, cols, element, false))
    }

    pub(super) fn stored(&self, name: &str, shape: &[usize]) -> Result<(String, Tensor<'_>, ElementType)> {
        let stored = self.stored_name(name);
        let missing = || self.bad(&stored, format!("missing; config.json implies {shape:?}{}", self.why_missing(name)));
        let tensor = self.checkpoint.tensor(&stored).ok_or_else(missing)?;
        if tensor.shape != shape {
            let found = shortened(&format!("{:?}", tensor.shape));
            return Err(self.bad(&stored, format!("expected shape {shape:?}, found {found}{}", self.sizes_left_out())));
        }
        let element = self.element(&stored, &tensor)?;
        Ok((stored, tensor, element))
    }

    fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        self.find(name, &[len])?.to_f32()
    }

    fn norm(&self, name: &str, shape: &[usize], bias: bool) -> Result<HostNorm> {
        let read = |part: &str| self.find(&format!("{name}.{part}"), shape)?.to_f32();
        let offset = self.config.architecture.norm.offset;
        Ok(HostNorm {
            heads: 1,
            weight: read("weight")?.into_iter().map(|weight| weight + offset).collect(),
            bias: if bias { Some(read("bias")?) } else { None },
        })
    }

    /// The norms of queries and of keys in a layer.
    fn head_norms(&self, layer: usize, qk: QkNorm) -> Result<[HostNorm; 2]> {
        let names = Names::of(&self.config);
        let read = |parts: Vec<(String, Vec<usize>)>| {
            let heads = match qk.span {
                QkSpan::Shared | QkSpan::Whole => 1,
                QkSpan::PerHead => parts[0].1[0],
                QkSpan::PerHeadTensors => parts.len(),
            };
            let mut whole = HostNorm { heads, weight: Vec::new(), bias: qk.bias.then(Vec::new) };
            for (stem, shape) in parts {
                let part = self.norm(&names.layer(layer, &stem), &shape, qk.bias)?;
                whole.weight.extend(part.weight);
                whole.bias.iter_mut().for_each(|bias| bias.extend(part.bias.iter().flatten()));
            }
            let places = self.config.head_norm_places(layer, whole.weight.len());
            for values in [Some(&mut whole.weight), whole.bias.as_mut()].into_iter().flatten() {
                *values = places.iter().map(|&place| values[place]).collect();
            }
            Ok::<_, Error>(whole)
        };
        let [q, k] = self.config.head_norms(layer);
        Ok([read(q)?, read(k)?])
    }

    fn residual_norm(&self, name: &str) -> Result<Option<HostNorm>> {
        let config = &self.config;
        (config.norm_affine && !config.fused())
            .then(|| self.norm(name, &[config.hidden_size], config.norm_has_bias()))
            .transpose()
    }

    /// The weights of one layer: norms and biases, and where to read the matrices.
    ///
    /// # Errors
    /// [`crate::Error::BadTensor`] if a value of a norm or bias is NaN or infinite; [`crate::Error::Read`].
    pub fn layer(&self, layer: usize) -> Result<HostLayer<'_>> {
        let (config, names) = (&self.config, Names::of(&self.config));
        let widths = config.widths(layer);
        let step = |step: Step| {
            let has_shortcut = config.fused() && widths.has_shortcut(step);
            let shortcut = if has_shortcut {
                let (before, after) = widths.step(step);
                let (name, tensor, element) = self.stored(&names.shortcut(layer, step), &[before, after])?;
                Some(HostMatrix::stored(name, tensor, Rows::Run(0..after), before, element, true))
            } else {
                None
            };
            let blocks = step.blocks.iter().map(|block| self.block(layer, block)).collect::<Result<_>>()?;
            Ok(HostStep { blocks, shortcut })
        };
        Ok(HostLayer { fused: config.fused(), steps: config.layer_steps(layer).map(step).collect::<Result<_>>()? })
    }

    fn block(&self, layer: usize, spec: &'static Block) -> Result<HostBlock<'_>> {
        let (config, names) = (&self.config, Names::of(&self.config));
        let mut linears = Vec::new();
        for weight in spec.weights {
            for role in weight.holds {
                linears.push(self.linear(layer, weight, *role)?);
            }
        }
        let head_norms = match config.qk_norm().filter(|_| spec.kind == BlockKind::Attention) {
            None => None,
            Some(qk) => Some(self.head_norms(layer, qk)?),
        };
        let norm = |name: Option<&str>| match name {
            Some(name) => self.residual_norm(&names.layer(layer, name)),
            None => Ok(None),
        };
        let delta = if spec.kind == BlockKind::DeltaNet { self.delta_net(layer)? } else { None };
        let sinks = match config.sinks(layer).filter(|_| spec.kind == BlockKind::Attention) {
            Some(TensorSpec { name, shape }) => Some(self.find(&name, &shape)?.to_f32()?),
            None => None,
        };
        let (norm, norm_after) = (norm(spec.norm)?, norm(spec.norm_after)?);
        Ok(HostBlock { spec, norm, norm_after, head_norms, sinks, delta, linears })
    }

    /// What a gated delta net has beside its linear weights.
    fn delta_net(&self, layer: usize) -> Result<Option<HostDeltaNet>> {
        let names = Names::of(&self.config);
        let Some((net, tensors)) = self.config.layers[layer].delta.zip(self.config.delta_tensors(layer)) else {
            return Ok(None);
        };
        let read = |(name, shape): &(String, Vec<usize>)| self.find(&names.layer(layer, name), shape)?.to_f32();
        let [convolution, rate, decay_bias, norm] = &tensors;
        Ok(Some(HostDeltaNet {
            net,
            convolution: read(convolution)?,
            rate: read(rate)?,
            decay_bias: read(decay_bias)?,
            norm: read(norm)?,
        }))
    }

    fn linear(&self, layer: usize, spec: &'static Weight, role: Role) -> Result<HostLinear<'_>> {
        let (config, name) = (&self.config, Names::of(&self.config).layer(layer, spec.name));
        let (rows, cols) = config.weight_shape(spec, layer);
        let transposed = spec.layout == Layout::Conv1d;
        let shape = if transposed { [cols, rows] } else { [rows, cols] };
        let held = config.weight_rows(spec, role, layer);
        let weight = format!("{name}.weight");
        if self.fused.contains_key(&weight) {
            return Ok(HostLinear { spec, role, matrix: self.find(&weight, &shape)?, bias: None });
        }
        let (stored, tensor, element) = self.stored(&weight, &shape)?;
        let bias = if config.linear_bias(spec) {
            let all = self.vector(&format!("{name}.bias"), rows)?;
            Some((0..held.len()).map(|row| all[held.stored(row)]).collect())
        } else {
            None
        };
        let matrix = HostMatrix::stored(stored, tensor, held, cols, element, transposed);
        Ok(HostLinear { spec, role, matrix, bias })
    }

    /// The final norm as it is stored, without the factor of the logits.
    ///
    /// # Errors
    /// As [`WeightStore::layer`].
    pub fn final_norm(&self) -> Result<Option<HostNorm>> {
        self.residual_norm(&Names::of(&self.config).final_norm())
    }

    /// Final norm, and where to read the embeddings and the head; a tied head is the embedding.
    ///
    /// # Errors
    /// As [`WeightStore::layer`].
    pub fn ends(&self) -> Result<HostEnds<'_>> {
        let (config, names) = (&self.config, Names::of(&self.config));
        let first = config.widths(0).attention_input;
        let embedding = self.find(&names.embedding(), &[config.vocab_size, first])?;
        let positions = match (names.positions(), config.position_rows()) {
            (Some(name), Some(rows)) => Some(self.find(&name, &[rows, first])?),
            _ => None,
        };
        let head = if config.tie_word_embeddings {
            embedding.clone()
        } else {
            self.find(&names.head(), &[config.vocab_size, config.widths(config.layers.len() - 1).output])?
        };
        let head_bias =
            config.has_head_bias().then(|| self.vector(&names.head_bias(), config.vocab_size)).transpose()?;
        // The final norm takes the factor of the logits, so that the head keeps its stored type where it can.
        let scale = config.logit_scale;
        let final_norm = self.final_norm()?.map(|norm| norm.scaled(scale));
        let head = if final_norm.is_some() { head } else { head.scaled(scale) };
        let head_bias = head_bias.map(|bias| bias.into_iter().map(|value| value * scale).collect());
        let mut embedding = embedding.scaled(config.embedding_scale);
        if let Some(name) = names.embedding_norm() {
            let (kind, eps) = (config.architecture.norm.kind, config.norm_eps);
            embedding = embedding.normed(RowNorm { kind, eps, parameters: self.residual_norm(&name)? });
        }
        let (fused, logit_softcap) = (config.fused(), config.logit_softcap);
        Ok(HostEnds { fused, embedding, positions, final_norm, head, logit_softcap, head_bias })
    }
}
