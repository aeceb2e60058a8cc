//! An ordinary checkpoint of the original `model_type` from a model whose residual stream has one basis throughout.
//!
//! Without shortcuts, only two things tell a sliced model from a stock one: its norms divide by the width before
//! slicing, and a layer norm would subtract a mean that is not there. With D the width before and d after:
//!
//! - RMS norm: x / sqrt(‖x‖²/D + ε) = sqrt(D/d) · x / sqrt(‖x‖²/d + ε·D/d), a stock norm with weights sqrt(D/d) and its
//!   own ε.
//! - Layer norm: the d coordinates are embedded into d + 1 by a U `[d + 1, d]` with orthonormal columns and 1ᵀ·U = 0.
//!   Then u = U·x has no mean to subtract and ‖u‖ = ‖x‖, so a stock norm of width d + 1 with weights sqrt(D/(d + 1)),
//!   ε·D/(d + 1) and no bias gives U·x / sqrt(‖x‖²/D + ε).
//!
//! Norms of queries and keys have the same ε in the config, though their width stays: for queries and keys sqrt(D/d)
//! times as large (d + 1 for layer norm), ε·D/d gives what ε gave.
//!
//! Where a norm with that ε normalises something whose size no weight decides, as the states of gated delta nets, ε
//! stays, and the residual stream is sqrt(d/D) times as large: x·sqrt(d/D) / sqrt(‖x‖²/D + ε), the mean square of which
//! is that of x over D coordinates, with weights sqrt(D/d) is x / sqrt(‖x‖²/D + ε), too.
//!
//! The stock classes of some architectures take heads times head_dim for the width of the residual stream, others have
//! layer norms that add something to what a linear layer without a bias reads: these have no stock form.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::{
    error::Result,
    model::{
        Config,
        architecture::{QkSpan, Space},
    },
    ops::Norm,
};

impl Config {
    /// Whether a narrower model of this `model_type` can be described by its own config.
    pub fn has_stock_form(&self) -> bool {
        // What a norm adds becomes part of what reads it, for which that needs a bias.
        let biased = self.architecture.ends.head_bias
            && self.architecture.weights().all(|weight| weight.reads != Space::Residual || self.has_bias(weight.bias));
        let stock = self.architecture.forms.stock && !self.heads_by_width();
        // Layer norms of queries and keys would have to make up for an ε that is not theirs.
        let head_layer_norms = self.qk_norm().is_some_and(|norm| norm.norm == Norm::Layer);
        stock && !head_layer_norms && (!self.norm_has_bias() || biased)
    }

    /// Whether the stock class takes hidden_size / num_attention_heads for the width of a layer norm that all heads
    /// share, or for the number of factors of LongRoPE.
    pub(super) fn heads_by_width(&self) -> bool {
        let shared = self.qk_norm().is_some_and(|norm| norm.norm == Norm::Layer && norm.span == QkSpan::Shared);
        shared || self.ropes.iter().any(|rope| rope.long.is_some())
    }

    /// Coordinates that the stock form adds to those that are kept: one where a layer norm subtracts a mean.
    pub fn stock_padding(&self) -> usize {
        usize::from(self.architecture.norm.kind == Norm::Layer)
    }

    /// What the width of the stock form must be a multiple of, for other programs to take it.
    pub fn stock_interval(&self) -> usize {
        if self.architecture.forms.width_by_heads { self.layers[0].heads } else { 1 }
    }

    /// The least multiple of `grid` that is one of [`Config::stock_interval`], too.
    pub fn stock_interval_on(&self, grid: usize) -> usize {
        let demanded = self.stock_interval();
        (1..demanded).map(|factor| grid * factor).find(|all| all.is_multiple_of(demanded)).unwrap_or(grid * demanded)
    }

    /// The weight of every norm of the stock form: sqrt(D / `stored`), `stored` the width of its tensors.
    pub fn stock_norm_weight(&self, stored: usize) -> f64 {
        (self.hidden_size as f64 / stored as f64).sqrt()
    }

    /// What the residual stream of the stock form is multiplied by: sqrt(`stored` / D) where ε stays as it was, 1
    /// otherwise.
    pub fn stock_stream_scale(&self, stored: usize) -> f64 {
        if self.has_delta_nets() { 1.0 / self.stock_norm_weight(stored) } else { 1.0 }
    }

    /// Whether a narrower model of this `model_type` can have the embedding for its head. Where a layer norm subtracts
    /// a mean, or a bias is added after it, the two would not be the same matrix.
    pub fn can_stay_tied(&self) -> bool {
        self.tie_word_embeddings && self.architecture.norm.kind == Norm::Rms && self.norm_affine
    }

    /// The config of the stock form, whose tensors are `stored` wide, with a `tied` head or another. Everything else
    /// stays as it was.
    ///
    /// # Errors
    /// As [`Config::from_fields`].
    pub fn stock(&self, stored: usize, tied: bool) -> Result<Self> {
        let mut raw = self.raw.clone();
        self.narrow(&mut raw, stored, tied);
        Self::from_fields(raw, Path::new("config.json of the sliced model"))
    }

    /// Makes fields those of a stock form.
    pub(super) fn narrow(&self, raw: &mut Map<String, Value>, stored: usize, tied: bool) {
        let fields = &self.architecture.fields;
        let (name, default) = fields.norm_eps;
        if let (Some(name), false) = (name, self.has_delta_nets()) {
            let eps = raw.get(name).and_then(Value::as_f64).unwrap_or(default);
            raw.insert(name.into(), json!(eps * self.hidden_size as f64 / stored as f64));
        }
        raw.insert("head_dim".into(), json!(self.layers[0].head_dim));
        set(raw, "hidden_size", fields.hidden_size, stored);
        raw.insert("tie_word_embeddings".into(), json!(tied));
        // Code that may have come with the model is not written, and not needed.
        raw.remove("auto_map");
    }
}

/// Sets a size under the name that a row gives it, and under the `general` one where the file has that.
pub(super) fn set(raw: &mut Map<String, Value>, general: &str, own: &str, size: usize) {
    raw.insert(own.into(), json!(size));
    if let Some(value) = raw.get_mut(general) {
        *value = json!(size);
    }
}

/// The U `[d + 1, d]`, row-major, whose orthonormal columns span what is orthogonal to 1: all but the first column of
/// the reflection that takes the first axis to 1/√(d + 1).
pub fn without_mean(d: usize) -> Vec<f64> {
    let n = d + 1;
    let each = 1.0 / (n as f64).sqrt();
    // v = e₀ − 1/√n, H = I − 2·v·vᵀ/‖v‖², and ‖v‖² = 2·(1 − 1/√n).
    let v = |i: usize| f64::from(u8::from(i == 0)) - each;
    let scale = if d == 0 { 0.0 } else { 1.0 / (1.0 - each) };
    (0..n).flat_map(|i| (1..n).map(move |j| f64::from(u8::from(i == j)) - scale * v(i) * v(j))).collect()
}
