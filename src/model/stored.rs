//! Which tensor of a checkpoint is which of a model: names with or without their first part, heads of their own or the
//! embedding's.

use super::{host::HostMatrix, storage::Rows, tensors::Names, weights::WeightStore};

use crate::{
    checkpoint::{Dtype, Tensor},
    error::{Error, Result},
    gpu::ElementType,
};

impl WeightStore {
    /// The stored shape of a tensor of this shape, and which rows of it are meant.
    pub(super) fn stored_shape(&self, name: &str, shape: &[usize]) -> (Vec<usize>, Rows) {
        let names = Names::of(&self.config);
        let of_tokens = || [names.embedding(), names.head(), names.head_bias()].iter().any(|of| of == name);
        match &self.vocabulary {
            Some(vocabulary) if of_tokens() => vocabulary.of_tokens(shape),
            _ => (shape.to_vec(), Rows::Run(0..shape.iter().rev().skip(1).product())),
        }
    }

    /// The names under which transformers finds the tensor `name`: its own, and that with the first part of the
    /// decoder's names before it, or without it, as checkpoints of the bare decoder have them.
    pub(super) fn candidates(&self, name: &str) -> Vec<String> {
        let architecture = self.config.architecture;
        let base = architecture.names.prefix.split_inclusive('.').next().unwrap_or_default();
        let mut names = vec![name.to_owned(), format!("{base}{name}")];
        let bare = name.strip_prefix(architecture.names.prefix).map(|rest| {
            let shorter = std::iter::successors(Some(architecture.names.prefix), |prefix| {
                prefix.split_once('.').map(|(_, rest)| rest)
            });
            shorter.skip(1).map(|prefix| format!("{prefix}{rest}")).collect::<Vec<_>>()
        });
        names.extend(bare.unwrap_or_default());
        if let Some(part) = self.config.part_of {
            let decoder = name.strip_prefix(architecture.names.prefix);
            names
                .extend(decoder.into_iter().flat_map(|rest| part.decoders.iter().map(move |of| format!("{of}{rest}"))));
            let head = Some(name).filter(|name| name.starts_with(architecture.names.head));
            names.extend(head.into_iter().flat_map(|head| part.heads.iter().map(move |of| format!("{of}{head}"))));
        }
        if let (Some(alias), Some(rest)) = (architecture.names.head_alias, name.strip_prefix(architecture.names.head)) {
            names.extend([format!("{alias}{rest}"), format!("{base}{alias}{rest}")]);
        }
        names
    }

    /// The name that a tensor of the model has in the files.
    pub(super) fn stored_name(&self, name: &str) -> String {
        if let Some(fused) = self.fused.get(name) {
            return self.stored_name(&fused.tensor);
        }
        let stored = |name: &str| self.candidates(name).into_iter().find(|name| self.checkpoint.tensor(name).is_some());
        let names = Names::of(&self.config);
        // A tied embedding may be stored as the head alone.
        let other = (self.config.tie_word_embeddings && name == names.embedding()).then(|| names.head());
        stored(name).or_else(|| stored(&other?)).unwrap_or_else(|| name.to_owned())
    }

    /// Every name in the files that stands for a tensor of the model.
    pub(super) fn all_stored_names(&self) -> std::collections::HashSet<String> {
        let head = Names::of(&self.config).head();
        self.config
            .tensors()
            .into_iter()
            .map(|spec| spec.name)
            .chain([head])
            .chain(self.fused.values().map(|fused| fused.tensor.clone()))
            .flat_map(|name| self.candidates(&name))
            .collect()
    }

    /// Refuses a tensor that the files have twice, under different names and with different values.
    pub(super) fn check_single(&self, name: &str) -> Result<()> {
        let mut found =
            self.candidates(name).into_iter().filter_map(|name| Some((self.checkpoint.tensor(&name)?, name)));
        let Some((first, stored)) = found.next() else { return Ok(()) };
        for (other, also) in found {
            if !first.is(&other) && !self.equal((&stored, first), (&also, other))? {
                return Err(
                    self.bad(&stored, format!("it is also there as {also}, with other values; take one of them out"))
                );
            }
        }
        Ok(())
    }

    /// Finds out whether the head is the embedding. As in transformers, a head that is stored beside a tied embedding
    /// counts if its values differ; and one that safetensors has left out as the same tensor is tied, whatever the
    /// config says.
    pub(super) fn resolve_head(&mut self) -> Result<()> {
        if self.config.fused() {
            return Ok(());
        }
        let names = Names::of(&self.config);
        let (embedding, head) = (self.stored_name(&names.embedding()), self.stored_name(&names.head()));
        let (Some(one), Some(other)) = (self.checkpoint.tensor(&embedding), self.checkpoint.tensor(&head)) else {
            return Ok(());
        };
        if one.is(&other) {
            self.config.tie_word_embeddings = true;
            return Ok(());
        }
        if !self.config.tie_word_embeddings || self.equal((&embedding, one), (&head, other))? {
            return Ok(());
        }
        let note = format!(
            "config.json ties the head to the embedding, but {head} differs from {embedding}: it is used as it is, as \
             transformers does; \
             \"tie_word_embeddings\": false in config.json says so without this warning"
        );
        self.notes.push(note);
        self.config.tie_word_embeddings = false;
        self.config.raw.insert("tie_word_embeddings".into(), false.into());
        Ok(())
    }

    /// Whether two tensors have the same shape and values, each in its own type.
    fn equal(&self, (name, one): (&str, Tensor), (also, other): (&str, Tensor)) -> Result<bool> {
        if one.shape != other.shape {
            return Ok(false);
        }
        if one.dtype == other.dtype && one.equals(&other)? {
            return Ok(true);
        }
        let (one, other) = (self.as_rows(name, one)?, self.as_rows(also, other)?);
        let together = ((1 << 20) / one.cols.max(1)).max(1);
        for first in (0..one.rows).step_by(together) {
            let rows = first..one.rows.min(first + together);
            if one.rows_f32(rows.clone())? != other.rows_f32(rows)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn as_rows<'a>(&self, name: &str, tensor: Tensor<'a>) -> Result<HostMatrix<'a>> {
        let cols = tensor.shape.last().copied().unwrap_or(1);
        let rows = tensor.shape.iter().rev().skip(1).product();
        self.matrix(name, tensor, rows, cols)
    }

    /// A stored tensor as a matrix.
    fn matrix<'a>(&self, name: &str, tensor: Tensor<'a>, rows: usize, cols: usize) -> Result<HostMatrix<'a>> {
        let element = self.element(name, &tensor)?;
        Ok(HostMatrix::stored(name.to_owned(), tensor, Rows::Run(0..rows), cols, element, false))
    }

    /// The type in which a stored tensor is read: its own, or f32 for f64.
    pub(super) fn element(&self, name: &str, tensor: &Tensor) -> Result<ElementType> {
        // What f32 cannot hold of an f64 is refused when it is read.
        let dtype = if tensor.dtype == Dtype::F64 { Dtype::F32 } else { tensor.dtype };
        element_type(dtype).ok_or_else(|| {
            let reason = format!(
                "expected F32, F16, BF16 or F64, found {dtype:?}; quantised checkpoints cannot be sliced: give the one \
                 that this was made of, or dequantize() the model in transformers and save that"
            );
            self.bad(name, reason)
        })
    }

    /// What is said of tensors in f64, which are computed and written in f32.
    pub(super) fn note_wide(&mut self) {
        let specs = self.config.tensors();
        let wide = specs.iter().filter(|spec| {
            self.checkpoint.tensor(&self.stored_name(&spec.name)).is_some_and(|tensor| tensor.dtype == Dtype::F64)
        });
        let count = wide.count();
        if count > 0 {
            self.notes.push(format!("{count} tensors are stored as F64; they are computed with and written as F32"));
        }
    }

    pub(super) fn bad(&self, name: &str, reason: String) -> Error {
        Error::BadTensor { name: name.into(), path: self.checkpoint.shown().into(), reason }
    }
}

/// How weights of a checkpoint's type are stored here; `None` where they cannot be.
pub fn element_type(dtype: Dtype) -> Option<ElementType> {
    match dtype {
        Dtype::F32 => Some(ElementType::F32),
        Dtype::F16 => Some(ElementType::F16),
        Dtype::BF16 => Some(ElementType::Bf16),
        _ => None,
    }
}
