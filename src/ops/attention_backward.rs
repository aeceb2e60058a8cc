//! The gradient of causal attention.

use super::{AttentionShape, Sequence};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Matrix},
};

impl Gpu {
    /// The gradients of queries, keys and values `qkv` `[tokens, *]` from the gradient `d` of attention's result, `[tokens,
    /// heads · head_dim]`, in the places of `qkv`. Products and shares of the keys are worked out again for a block of
    /// queries at a time; five matrix products where attention itself has two (FlashAttention's backward pass, Dao et al.
    /// 2022, with the shares of a block in memory). Sequences are whole: their keys lie beside their queries.
    ///
    /// # Errors
    /// [`Error::Shape`] if heads or sequences lie outside of the matrices, or a sequence is not whole;
    /// [`Error::OutOfMemory`].
    pub fn attention_backward(
        &self,
        shape: &AttentionShape,
        qkv: &Matrix,
        d: &Matrix,
        sequences: &[Sequence],
    ) -> Result<Matrix> {
        check(shape, [qkv, d], sequences)?;
        // What no head has is no part of the result.
        let dqkv = self.zeros(qkv.rows(), qkv.cols())?;
        for sequence in sequences {
            self.attention_backward_of(shape, [qkv, d, &dqkv], sequence)?;
        }
        Ok(dqkv)
    }
}

fn check(shape: &AttentionShape, [qkv, d]: [&Matrix; 2], all: &[Sequence]) -> Result<()> {
    let AttentionShape { head_dim, q, k, v, .. } = *shape;
    let width = q.heads * head_dim;
    let fits = [q, k, v].iter().all(|span| span.end(head_dim) <= qkv.cols())
        && (d.rows(), d.cols()) == (qkv.rows(), width)
        && k.heads == v.heads
        && q.heads.is_multiple_of(k.heads.max(1));
    if !fits {
        let sizes = [qkv, d].map(|one| (one.rows(), one.cols()));
        return Err(Error::shape("attention_backward", format!("{shape:?} in {sizes:?}")));
    }
    let whole = |one: &&Sequence| one.position == 0 && one.kv_row == one.first && one.first + one.tokens <= qkv.rows();
    match all.iter().find(|one| !whole(one)) {
        Some(one) => Err(Error::shape("attention_backward", format!("{one:?} of {} tokens", qkv.rows()))),
        None => Ok(()),
    }
}
