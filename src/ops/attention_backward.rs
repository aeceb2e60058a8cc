//! The gradient of causal attention.

use super::{AttentionShape, Sequence, attention_blocks::Part};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Matrix},
};

/// What attention was given and has made of it, and the gradient of that.
#[derive(Clone, Copy)]
pub struct AttentionResult<'a> {
    /// Queries, keys and values `[tokens, *]`.
    pub qkv: &'a Matrix,
    /// What [`Gpu::attention`] made of them, `[tokens, heads · head_dim]`.
    pub out: &'a Matrix,
    /// Its gradient, of the same shape.
    pub d: &'a Matrix,
}

impl Gpu {
    /// For each token t and query head h, the logarithm of the sum over the keys that it sees of `exp(scale · q·k)`, and
    /// `Σ_i d[t, h, i] · out[t, h, i]`, side by side: `[tokens, 2 · heads]`.
    ///
    /// # Errors
    /// As [`Gpu::attention_backward`].
    pub fn attention_statistics(
        &self,
        shape: &AttentionShape,
        result: AttentionResult,
        sequences: &[Sequence],
    ) -> Result<Matrix> {
        let AttentionResult { qkv, out, d } = result;
        check(shape, result, sequences)?;
        let statistics = self.unfilled(qkv.rows(), 2 * shape.q.heads)?;
        let bindings = [qkv, d, out, &statistics];
        self.each_block(shape, Part::Statistics, bindings, [&statistics, d], sequences)?;
        Ok(statistics)
    }

    /// The gradients of queries, keys and values from that of attention's result, in the places of `qkv`: `[tokens, *]`.
    /// Shares are worked out again from [`Gpu::attention_statistics`], 32 queries and 32 keys at a time. Sequences are
    /// whole: their keys lie beside their queries.
    ///
    /// # Errors
    /// [`Error::Shape`] if heads or sequences lie outside of the matrices, or a sequence is not whole;
    /// [`Error::OutOfMemory`].
    pub fn attention_backward(
        &self,
        shape: &AttentionShape,
        result: AttentionResult,
        sequences: &[Sequence],
    ) -> Result<Matrix> {
        let statistics = self.attention_statistics(shape, result, sequences)?;
        let AttentionResult { qkv, d, .. } = result;
        // What no head has is no part of the result.
        let dqkv = self.zeros(qkv.rows(), qkv.cols())?;
        for part in [Part::Queries, Part::Keys] {
            self.each_block(shape, part, [qkv, d, &statistics, &dqkv], [&statistics, d], sequences)?;
        }
        Ok(dqkv)
    }
}

fn check(shape: &AttentionShape, AttentionResult { qkv, out, d }: AttentionResult, all: &[Sequence]) -> Result<()> {
    let AttentionShape { head_dim, q, k, v, .. } = *shape;
    let width = q.heads * head_dim;
    let fits = [q, k, v].iter().all(|span| span.end(head_dim) <= qkv.cols())
        && [out, d].iter().all(|one| (one.rows(), one.cols()) == (qkv.rows(), width))
        && k.heads == v.heads
        && q.heads.is_multiple_of(k.heads.max(1));
    if !fits {
        let sizes = [qkv, out, d].map(|one| (one.rows(), one.cols()));
        return Err(Error::shape("attention_backward", format!("{shape:?} in {sizes:?}")));
    }
    let whole = |one: &&Sequence| one.position == 0 && one.kv_row == one.first && one.first + one.tokens <= qkv.rows();
    match all.iter().find(|one| !whole(one)) {
        Some(one) => Err(Error::shape("attention_backward", format!("{one:?} of {} tokens", qkv.rows()))),
        None => Ok(()),
    }
}
