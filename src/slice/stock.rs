//! From the sliced model to the tensors of its stock form, see [`crate::model::without_mean`].

use std::collections::HashSet;

use faer::MatRef;
use half::{bf16, f16};

use super::{plan::Plan, rotate::Rotation};
use crate::{
    checkpoint::Dtype,
    error::Result,
    gpu::Gpu,
    model::{Config, Names, without_mean},
};

/// What the written tensors have that the sliced model in memory has not.
pub struct StockForm {
    /// Uᵀ, into the coordinates of the tensors; `None` where they are those of the residual stream.
    pub embedding: Option<Rotation>,
    /// The weight of every norm, as every type that one is written in holds it; `None` where norms have none.
    pub norm: Option<f32>,
    /// Whether norms have a bias, which is zero.
    pub norm_bias: bool,
    /// What weights that read a norm are multiplied by, to make up for that rounding.
    pub gain: f32,
    /// What queries and keys are multiplied by, with their biases, where they go through norms of their own: these share the changed ε, and give
    /// what they gave for signals as much larger.
    pub query_gain: Option<f32>,
}

impl StockForm {
    /// What the planned form needs.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn of(gpu: &Gpu, config: &Config, plan: &Plan) -> Result<Self> {
        if !plan.stock {
            return Ok(Self { embedding: None, norm: None, norm_bias: false, gain: 1.0, query_gain: None });
        }
        let exact = config.stock_norm_weight(plan.stored_width);
        let names = Names::of(config);
        let norms = (0..config.layers.len()).flat_map(|layer| names.layer_norms(layer)).chain([names.final_norm()]);
        let norms: HashSet<String> = norms.map(|name| format!("{name}.weight")).collect();
        let written = |dtype| plan.tensors.iter().any(|tensor| tensor.dtype == dtype && norms.contains(&tensor.name));
        // What bf16 holds of a number of this size, f16 and f32 hold, too.
        let rounded = match () {
            () if written(Dtype::BF16) => bf16::from_f64(exact).to_f32(),
            () if written(Dtype::F16) => f16::from_f64(exact).to_f32(),
            () => exact as f32,
        };
        let embedding = if plan.stored_width == plan.width {
            None
        } else {
            let u = without_mean(plan.width);
            // Row-major [d + 1, d] is column-major Uᵀ.
            Some(Rotation::upload(gpu, MatRef::from_column_major_slice(&u, plan.width, plan.stored_width), plan.stored_width)?)
        };
        let gain = if rounded == exact as f32 { 1.0 } else { (exact / f64::from(rounded)) as f32 };
        Ok(Self { embedding, norm: Some(rounded), norm_bias: config.norm_has_bias(), gain, query_gain: config.qk_norm.then_some(exact as f32) })
    }
}
