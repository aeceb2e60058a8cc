//! The gated delta net of one layer, see [`super::architecture::DeltaNets`] for its formulas.

use super::{
    delta_weights::{DeltaWeights, LayerCache},
    layer::{BlockWeights, LayerContext},
    layer_spec::DeltaNet,
};
use crate::{
    error::{Error, Result},
    gpu::Matrix,
    ops::{DeltaRun, Gate, HeadSpan, Norm, RowCopy, Sequence},
};

/// Added to the square of the length of queries and keys.
pub(in crate::model) const UNIT_EPS: f32 = 1e-6;
/// As many columns of states keep a GPU busy: sequences beyond wait for their turn.
const COLUMNS: usize = 1 << 14;

impl DeltaNet {
    /// How many sequences are worked on together where their states are not kept.
    pub fn together(&self) -> usize {
        COLUMNS.div_ceil(self.shape.value_width())
    }

    /// What is added to the mean square of queries and keys.
    pub(super) fn unit_eps(&self) -> f32 {
        UNIT_EPS / self.shape.key_dim as f32
    }
}

impl LayerContext<'_> {
    /// What the output projection of a gated delta net reads, `[tokens, value_heads · value_dim]`.
    pub(super) fn delta_net(&self, block: &BlockWeights, input: &Matrix) -> Result<Matrix> {
        let missing = || Error::shape("delta net", "a layer without one");
        let (delta, weights) = (self.spec().delta.ok_or_else(missing)?, block.delta.as_ref().ok_or_else(missing)?);
        let (gpu, shape) = (self.gpu, delta.shape);
        let projected = self.projected(block, input, 0)?;
        let qkv = self.convolved(&delta, &projected, &weights.convolution)?;
        self.unit_in_place(&delta, weights, &qkv)?;
        let gates = gpu.delta_gates(&projected, delta.beta_column(), delta.decay_column(), &weights.gates)?;
        let out = self.recalled(&delta, &qkv, &gates)?;
        drop((qkv, gates));
        let heads = HeadSpan { column: 0, heads: shape.value_heads };
        gpu.head_norm(Norm::Rms, &out, heads, &weights.norm, None, self.config.head_norm_eps)?;
        gpu.gate_in_place(Gate::Silu, &out, &projected, delta.gate_column())?;
        Ok(out)
    }

    /// Makes unit vectors of the queries and keys in `qkv`.
    pub(super) fn unit_in_place(&self, delta: &DeltaNet, weights: &DeltaWeights, qkv: &Matrix) -> Result<()> {
        let mut units = weights.units(&delta.shape).into_iter();
        units.try_for_each(|(span, unit)| self.gpu.head_norm(Norm::Rms, qkv, span, unit, None, delta.unit_eps()))
    }

    /// Queries, keys and values after their convolution.
    pub(super) fn convolved(&self, delta: &DeltaNet, projected: &Matrix, weight: &Matrix) -> Result<Matrix> {
        let mut places = vec![[0; 2]; projected.rows()];
        let Some(cache) = self.cache else {
            for sequence in self.sequences {
                for token in 0..sequence.tokens {
                    let row = sequence.first + token;
                    places[row] = [row as u32, token as u32 + 1];
                }
            }
            return self.gpu.short_conv(projected, weight, &places);
        };
        let LayerCache::Delta { recent, .. } = cache else {
            return Err(Error::shape("delta net", "the cache of another layer"));
        };
        let (gpu, before, channels) = (self.gpu, delta.taps - 1, delta.shape.qkv_width());
        // Of each sequence the tokens that are kept, and then its own.
        let rows: usize = self.sequences.iter().map(|sequence| before + sequence.tokens).sum();
        let seen = gpu.zeros(rows, channels)?;
        let (mut own, mut old, mut last) = (Vec::new(), Vec::new(), Vec::new());
        let mut first = 0;
        for (number, sequence) in self.sequences.iter().enumerate() {
            for token in 0..sequence.tokens {
                let row = first + before + token;
                own.push((sequence.first + token, row));
                places[sequence.first + token] = [row as u32, (before + token) as u32 + 1];
            }
            let kept = number * before..(number + 1) * before;
            // What is there where a sequence begins is another's: it sees zeros.
            if sequence.position > 0 {
                old.extend(kept.clone().zip(first..));
            }
            last.extend((first + sequence.tokens..).zip(kept));
            first += before + sequence.tokens;
        }
        let whole = RowCopy::whole(channels);
        gpu.copy_rows(projected, &seen, &own, whole)?;
        for (from, to, rows) in [(recent, &seen, old), (&seen, recent, last)] {
            if !rows.is_empty() {
                gpu.copy_rows(from, to, &rows, whole)?;
            }
        }
        gpu.short_conv(&seen, weight, &places)
    }

    /// The tokens of each sequence, and where its state is of as many as there are `together`.
    pub(super) fn delta_runs(&self, together: usize) -> Vec<DeltaRun> {
        let run = |(number, sequence): (usize, &Sequence)| DeltaRun {
            first: sequence.first,
            tokens: sequence.tokens,
            state: number % together,
            begins: sequence.position == 0,
        };
        self.sequences.iter().enumerate().map(run).collect()
    }

    /// What the states give of the queries.
    pub(super) fn recalled(&self, delta: &DeltaNet, qkv: &Matrix, gates: &Matrix) -> Result<Matrix> {
        let (gpu, shape) = (self.gpu, delta.shape);
        match self.cache {
            Some(LayerCache::Delta { states, .. }) => {
                gpu.delta_rule(&shape, qkv, gates, states, &self.delta_runs(usize::MAX))
            }
            Some(LayerCache::Keys(_)) => Err(Error::shape("delta net", "the cache of another layer")),
            None => {
                let together = delta.together().min(self.sequences.len().max(1));
                let states = gpu.unfilled(together * shape.state_rows(), shape.value_dim)?;
                gpu.delta_rule(&shape, qkv, gates, &states, &self.delta_runs(together))
            }
        }
    }
}
