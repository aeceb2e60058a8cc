//! What a gated delta net has on the GPU beside its linear weights, and what a layer keeps of the tokens that it has
//! seen.

use super::{host::HostDeltaNet, layer_spec::LayerSpec};
use crate::{
    error::Result,
    gpu::{Gpu, Matrix},
    ops::{DeltaShape, HeadSpan},
};

/// What a gated delta net has beside its linear weights.
#[derive(Debug, Clone)]
pub struct DeltaWeights {
    /// `[taps, channels]`.
    pub convolution: Matrix,
    /// `[2, value_heads]`: rates, and what is added to the decay.
    pub gates: Matrix,
    /// `[1, value_dim]`, which all heads share.
    pub norm: Matrix,
    /// `[1, key_dim]`, what unit queries are multiplied by, and unit keys, where norms divide by the mean square.
    pub unit: [Matrix; 2],
}

impl DeltaWeights {
    /// Uploads what is stored.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn upload(gpu: &Gpu, host: &HostDeltaNet) -> Result<Self> {
        let (shape, taps) = (host.net.shape, host.net.taps);
        let (channels, heads) = (shape.qkv_width(), shape.value_heads);
        let by_tap: Vec<f32> = (0..taps)
            .flat_map(|tap| (0..channels).map(move |channel| host.convolution[channel * taps + tap]))
            .collect();
        let rates = host.rate.iter().map(|rate| f64::from(*rate).exp() as f32);
        let gates: Vec<f32> = rates.chain(host.decay_bias.iter().copied()).collect();
        // x / ‖x‖ = x / sqrt(mean square) / sqrt(key_dim); queries are divided by that root once more.
        let root = (shape.key_dim as f64).sqrt();
        let unit = |factor: f64| gpu.upload(&vec![factor as f32; shape.key_dim], 1, shape.key_dim);
        Ok(Self {
            convolution: gpu.upload(&by_tap, taps, channels)?,
            gates: gpu.upload(&gates, 2, heads)?,
            norm: gpu.upload(&host.norm, 1, host.norm.len())?,
            unit: [unit(1.0 / (root * root))?, unit(1.0 / root)?],
        })
    }

    /// Where the queries lie and then the keys, and what makes them unit vectors.
    pub(super) fn units(&self, shape: &DeltaShape) -> [(HeadSpan, &Matrix); 2] {
        let span =
            |number: usize| HeadSpan { column: number * shape.key_heads * shape.key_dim, heads: shape.key_heads };
        [(span(0), &self.unit[0]), (span(1), &self.unit[1])]
    }
}

/// What a layer keeps of the tokens that it has seen.
#[derive(Debug, Clone)]
pub enum LayerCache {
    /// Keys and values, `[rows, 2 · kv_heads · head_dim]`.
    Keys(Matrix),
    Delta {
        /// What the convolution of each sequence sees of the tokens before, `[sequences · (taps − 1), channels]`.
        recent: Matrix,
        /// `[sequences · value_heads · key_dim, value_dim]`.
        states: Matrix,
    },
}

impl LayerCache {
    /// Of this many sequences of up to `capacity` tokens each.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn new(gpu: &Gpu, spec: &LayerSpec, sequences: usize, capacity: usize) -> Result<Self> {
        let Some(delta) = spec.delta else { return gpu.zeros(sequences * capacity, spec.kv_width()).map(Self::Keys) };
        let shape = delta.shape;
        Ok(Self::Delta {
            recent: gpu.zeros(sequences * (delta.taps - 1), shape.qkv_width())?,
            states: gpu.zeros(sequences * shape.state_rows(), shape.value_dim)?,
        })
    }
}

impl LayerSpec {
    /// Bytes that a layer keeps of a sequence whatever its length, and of each of its tokens.
    pub fn cache_bytes(&self) -> (usize, usize) {
        let row = |width: usize| 4 * width.next_multiple_of(4);
        match self.delta {
            None => (0, row(self.kv_width())),
            Some(delta) => {
                let states = delta.shape.state_rows() * row(delta.shape.value_dim);
                ((delta.taps - 1) * row(delta.shape.qkv_width()) + states, 0)
            }
        }
    }
}
