//! From the tensors in memory to those of an output: those of a stock form have norms, and may be one coordinate wider,
//! see [`crate::model::without_mean`].

use std::collections::HashSet;

use crate::{
    checkpoint::{Dtype, TensorPlan},
    error::Result,
    gpu::{ElementType, Gpu, Matrix},
    model::{Config, Names, element_type, without_mean},
};

/// What the written tensors have that those in memory have not.
pub struct StockForm {
    /// The width of what is written.
    pub width: usize,
    /// U `[width, width in memory]`, into the coordinates of the tensors; `None` where they are those of the residual
    /// stream.
    pub embedding: Option<Matrix>,
    /// The weight of every norm, as every type that one is written in holds it; `None` where norms have none.
    pub norm: Option<f32>,
    /// Whether norms have a bias, which is zero.
    pub norm_bias: bool,
    /// What weights that read a norm are multiplied by, to make up for that rounding.
    pub gain: f32,
    /// What queries and keys are multiplied by, with their biases, where they go through norms of their own: these
    /// share the changed ε, and give what they gave for signals as much larger.
    pub query_gain: Option<f32>,
    /// What the residual stream is multiplied by.
    pub stream_scale: f32,
}

impl StockForm {
    /// Tensors as they are in memory, with the norms in their weights.
    pub fn fused(width: usize) -> Self {
        Self { width, embedding: None, norm: None, norm_bias: false, gain: 1.0, query_gain: None, stream_scale: 1.0 }
    }

    /// The stock form of a residual stream of `width` coordinates in tensors `stored` wide; `config` is the dense
    /// model's.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn new(gpu: &Gpu, config: &Config, width: usize, stored: usize, tensors: &[TensorPlan]) -> Result<Self> {
        let exact = config.stock_norm_weight(stored);
        let names = Names::of(config);
        let norms = (0..config.layers.len()).flat_map(|layer| names.layer_norms(layer)).chain([names.final_norm()]);
        let norms: HashSet<String> = norms.map(|name| format!("{name}.weight")).collect();
        let written = |dtype| tensors.iter().any(|tensor| tensor.dtype == dtype && norms.contains(&tensor.name));
        // What bf16 holds of a number of this size, f16 and f32 hold, too.
        let narrowest = [Dtype::BF16, Dtype::F16].into_iter().find(|dtype| written(*dtype)).and_then(element_type);
        let offset = config.architecture.norm.offset;
        // What is stored is rounded, which may be less than the weight.
        let stored_weight = narrowest.unwrap_or(ElementType::F32).nearest(exact - f64::from(offset));
        let rounded = stored_weight + offset;
        let embedding = if stored == width {
            None
        } else {
            let u: Vec<f32> = without_mean(width).into_iter().map(|value| value as f32).collect();
            Some(gpu.upload(&u, stored, width)?)
        };
        Ok(Self {
            width: stored,
            embedding,
            norm: Some(rounded),
            norm_bias: config.norm_has_bias(),
            gain: if rounded == exact as f32 { 1.0 } else { (exact / f64::from(rounded)) as f32 },
            // Where ε stays, so do they.
            query_gain: (config.qk_norm && !config.has_delta_nets()).then_some(exact as f32),
            stream_scale: config.stock_stream_scale(stored) as f32,
        })
    }

    /// Signals, biases or weights that read the residual stream, `[rows, width in memory]`, in the tensors'
    /// coordinates.
    pub(super) fn rows(&self, gpu: &Gpu, x: &Matrix) -> Result<Matrix> {
        self.embedding.as_ref().map_or_else(|| Ok(x.clone()), |u| gpu.product(x, u))
    }

    /// A weight that writes the residual stream, `[width in memory, in]`, in the tensors' coordinates.
    pub(super) fn columns(&self, gpu: &Gpu, w: &Matrix) -> Result<Matrix> {
        self.embedding.as_ref().map_or_else(|| Ok(w.clone()), |u| gpu.matmul(u, w))
    }
}
