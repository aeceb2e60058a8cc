//! The gradient of causal attention.

use super::{AttentionShape, Sequence, attention_blocks::Block, attention_division::Division};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Matrix},
};

impl Gpu {
    /// The gradients of queries, keys and values `qkv` `[tokens, *]` from the gradient `d` of attention's result,
    /// `[tokens, heads · head_dim]`, in the places of `qkv`. Products and shares of the keys are worked out again for a
    /// block of queries at a time; five matrix products where attention itself has two (FlashAttention's backward pass,
    /// Dao et al. 2022, with the shares of a block in memory). Sequences are whole: their keys lie beside their
    /// queries.
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
        // What no head has is no part of the result.
        let dqkv = self.zeros(qkv.rows(), qkv.cols())?;
        self.attention_backward_into((shape, &[]), qkv, d, sequences, &dqkv)?;
        Ok(dqkv)
    }

    /// The same of [`Gpu::attention_with_sinks`], into a matrix like `qkv` whose columns of queries, keys and values
    /// are zero; others stay as they are. Sinks themselves get no gradients.
    ///
    /// # Errors
    /// As [`Gpu::attention_backward`]; [`Error::Shape`] for another number of sinks.
    pub fn attention_backward_into(
        &self,
        (shape, sinks): (&AttentionShape, &[f32]),
        qkv: &Matrix,
        d: &Matrix,
        sequences: &[Sequence],
        dqkv: &Matrix,
    ) -> Result<()> {
        check(shape, [qkv, d, dqkv], sequences)?;
        if ![0, shape.q.heads].contains(&sinks.len()) {
            return Err(Error::shape("attention_backward", format!("{shape:?} with {} sinks", sinks.len())));
        }
        let sinks = match sinks.len() {
            0 => None,
            heads => Some(self.upload(sinks, 1, heads)?),
        };
        let mut all = sequences.iter();
        all.try_for_each(|one| self.attention_backward_of((shape, sinks.as_ref()), [qkv, d, dqkv], one))
    }

    /// Adds the gradients of a sequence's keys and values to `dqkv`, and puts those of its queries there.
    fn attention_backward_of(
        &self,
        (shape, sinks): (&AttentionShape, Option<&Matrix>),
        [qkv, d, dqkv]: [&Matrix; 3],
        sequence: &Sequence,
    ) -> Result<()> {
        let AttentionShape { head_dim, q, k, v, window, .. } = *shape;
        let tokens = sequence.tokens;
        // A turn takes four keys at most, or with workgroup memory one, and another to bring it there.
        let seen = window.unwrap_or(tokens).min(tokens);
        self.check_rows("the gradient of attention over", seen, self.most_rows(1, 2))?;
        let division = Division::new(shape, tokens, self.work_per_dispatch());
        let [rows, columns] = division.shares(shape, tokens);
        // All blocks in one place: memory of one size is used again in the next sequence.
        let shares = self.unfilled(rows, columns)?;
        for first in (0..tokens).step_by(division.queries) {
            for kv_head in (0..k.heads).step_by(division.kv_heads) {
                let queries = first..tokens.min(first + division.queries);
                let kv_heads = kv_head..k.heads.min(kv_head + division.kv_heads);
                let block = Block::new(self, shape, sequence, (queries, kv_heads), &shares);
                let of_query = |column| column + kv_head * shape.group() * head_dim;
                let of_key = |column| column + kv_head * head_dim;
                let [query, key, value] = [of_query(q.column), of_key(k.column), of_key(v.column)];
                block.products(0, (qkv, query), (qkv, key))?;
                block.products(1, (d, of_query(0)), (qkv, value))?;
                block.shares(sinks)?;
                block.sums(1, false, (qkv, key), (dqkv, query))?;
                block.sums(1, true, (qkv, query), (dqkv, key))?;
                block.sums(0, true, (d, of_query(0)), (dqkv, value))?;
            }
        }
        Ok(())
    }
}

fn check(shape: &AttentionShape, [qkv, d, dqkv]: [&Matrix; 3], all: &[Sequence]) -> Result<()> {
    let AttentionShape { head_dim, q, k, v, .. } = *shape;
    let width = q.heads * head_dim;
    let fits = [q, k, v].iter().all(|span| span.end(head_dim) <= qkv.cols())
        && (d.rows(), d.cols()) == (qkv.rows(), width)
        && (dqkv.rows(), dqkv.cols()) == (qkv.rows(), qkv.cols())
        && k.heads == v.heads
        && q.heads.is_multiple_of(k.heads.max(1));
    if !fits {
        let sizes = [qkv, d, dqkv].map(|one| (one.rows(), one.cols()));
        return Err(Error::shape("attention_backward", format!("{shape:?} in {sizes:?}")));
    }
    let whole = |one: &&Sequence| one.position == 0 && one.kv_row == one.first && one.first + one.tokens <= qkv.rows();
    match all.iter().find(|one| !whole(one)) {
        Some(one) => Err(Error::shape("attention_backward", format!("{one:?} of {} tokens", qkv.rows()))),
        None => Ok(()),
    }
}
