//! One file for each kernel family, with the stem of its shader: methods on [`crate::gpu::Gpu`] that check shapes and
//! encode, nothing else. Each has an f64 twin of the same name in [`crate::reference`].

mod activation;
mod activation_backward;
mod adamw;
mod add_rows;
mod alibi;
mod attention;
mod attention_backward;
mod attention_blocks;
mod attention_division;
mod attention_shape;
mod bound;
mod bound_backward;
mod catalog;
mod clamped_swiglu;
mod clamped_swiglu_backward;
mod column_sums;
mod copy_rows;
mod covariance;
mod delta_gates;
mod delta_gates_backward;
mod delta_marches;
mod delta_rule;
mod delta_rule_backward;
mod divergence;
mod divergence_backward;
mod dropout;
mod embed;
mod embed_backward;
mod energy;
mod gate;
mod gate_backward;
mod gemm;
mod gemm_f16_matrix;
mod gemm_naive;
mod gemv;
mod head_norm;
mod head_norm_backward;
mod linear;
mod linear_backward;
mod loss;
mod loss_backward;
mod norm;
mod norm_backward;
mod operands;
mod probe;
mod product;
mod rope;
mod route;
mod route_backward;
mod row_products;
mod sample;
mod scale_tokens;
mod sequence;
mod short_conv;
mod short_conv_backward;
mod subtract;
mod transpose;
mod tuning;
mod turns;

pub use activation::Activation;
pub use adamw::AdamW;
pub use alibi::Alibi;
pub use attention_division::attention_backward_bytes;
pub use attention_shape::{AttentionShape, MAX_HEAD_DIM};
pub use bound::Bound;
#[doc(hidden)]
pub use catalog::kernels;
pub use clamped_swiglu::ClampedSwiglu;
pub use copy_rows::RowCopy;
pub use covariance::{COVARIANCE_RUN, COVARIANCE_TOKENS};
pub use delta_rule::{DeltaRun, DeltaShape, MAX_KEY_DIM};
pub use delta_rule_backward::DeltaGradients;
pub use divergence::Divergence;
pub use dropout::Dropout;
pub use gate::Gate;
pub use head_norm::HeadSpan;
pub use norm::Norm;
pub use norm_backward::NormInput;
pub use probe::PROBE_CHAINS;
pub use product::ProductConfig;
pub use route::Routes;
pub use sample::{SampleOptions, short_seed};
pub use sequence::{Sequence, sequences};
pub use transpose::transposed_columns;

use crate::gpu::{ElementType, Gpu, Matrix};

/// Threads of a workgroup, in every kernel.
const WORKGROUP: usize = 64;

/// How many threads share a token where its values are summed: a narrow one would leave most of a workgroup idle, so
/// several tokens share that.
const ROW_LANES: [usize; 2] = [8, WORKGROUP];

fn row_lanes(width: usize) -> usize {
    ROW_LANES[usize::from(width > 512)]
}

/// A grid of `count` workgroups, folded into two dimensions since one holds no more than 65535.
fn folded(count: usize) -> [u32; 3] {
    let rows = count.div_ceil(65535).max(1);
    [count.div_ceil(rows) as u32, rows as u32, u32::from(count > 0)]
}

/// A grid of this many parts of each of `rows` rows, which are folded into two dimensions.
fn folded_rows(parts: usize, rows: usize) -> [u32; 3] {
    let [y, z, _] = folded(rows);
    [parts as u32, y, if rows > 0 { z } else { 0 }]
}

/// The shader `$file` with what it needs from `shared/` before it.
macro_rules! shader {
    ($($file:literal),+) => {
        concat!($(include_str!(concat!("../../shaders/", $file, ".wgsl")), "\n"),+)
    };
}
use shader;

/// How a kernel reads the elements of a weight.
#[derive(Debug, Clone, Copy)]
enum Stored {
    F32,
    F16,
    /// F16 where the driver cannot unpack it.
    F16Bits,
    Bf16,
}

impl Stored {
    const ALL: [Self; 4] = [Self::F32, Self::F16, Self::F16Bits, Self::Bf16];

    fn of(weight: &Matrix, gpu: &Gpu) -> Self {
        match weight.element() {
            ElementType::F16 if gpu.unpacks_f16() => Self::F16,
            ElementType::F16 => Self::F16Bits,
            ElementType::Bf16 => Self::Bf16,
            ElementType::F32 | ElementType::U32 => Self::F32,
        }
    }
}

/// The variants of a shader that reads weights: the right `shared/*.wgsl` before it.
macro_rules! weight_shader {
    ($stored:expr, $($file:literal),+) => {
        match $stored {
            Stored::F32 => shader!("shared/f32", $($file),+),
            Stored::F16 => shader!("shared/f16", $($file),+),
            Stored::F16Bits => shader!("shared/f16_bits", $($file),+),
            Stored::Bf16 => shader!("shared/bf16", $($file),+),
        }
    };
}
use weight_shader;
