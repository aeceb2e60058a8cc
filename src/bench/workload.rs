//! The workloads: fixed names, fixed sizes. A name never changes its meaning; what would change it gets another name.

use crate::{
    error::{Error, Result},
    gpu::ElementType,
};

/// Something to measure.
#[derive(Debug, Clone, Copy)]
pub struct Workload {
    pub name: &'static str,
    /// In words, for `--list`.
    pub what: &'static str,
    pub case: Case,
    pub when: When,
}

impl Workload {
    /// The published model whose shape it has: what stands second in its name.
    pub fn shape(&self) -> &'static str {
        self.name.split('/').nth(1).unwrap_or_default()
    }
}

/// When a workload runs if no filter names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Also with `--quick`.
    Quick,
    Full,
    /// Not on software adapters, where it takes minutes.
    Hardware,
}

/// What is computed, with its sizes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Case {
    /// Multiply-adds in registers: the peak that compute rows are a percentage of.
    Fma,
    /// One large copy: the peak that rows bound by memory are a percentage of.
    Copy,
    /// `[m, k] · [n, k]ᵀ`.
    Gemm {
        kernel: Product,
        m: usize,
        n: usize,
        k: usize,
        weights: ElementType,
    },
    Covariance {
        width: usize,
        tokens: usize,
    },
    /// On the CPU.
    Eigh {
        width: usize,
    },
    /// The last `tokens` of a sequence of `past + tokens`.
    Attention {
        heads: usize,
        kv_heads: usize,
        head_dim: usize,
        tokens: usize,
        past: usize,
        window: Option<usize>,
    },
    /// RMS norm.
    Norm {
        tokens: usize,
        width: usize,
    },
    /// SiLU of one half times the other.
    Activation {
        tokens: usize,
        width: usize,
    },
    /// What training adds to another workload.
    Backward(Gradient),
    /// One decoder layer of [].
    Layer {
        tokens: usize,
        past: usize,
        slicing: LayerSlicing,
    },
    /// Slicing a whole model of random weights, files and eigenproblems included.
    Run {
        sequences: usize,
        seqlen: usize,
    },
}

/// Of what a gradient is worked out, from that of its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gradient {
    /// Of what `[m, k] · [n, k]ᵀ` has read, and of its weight.
    Linear {
        m: usize,
        n: usize,
        k: usize,
    },
    Norm {
        tokens: usize,
        width: usize,
    },
    Activation {
        tokens: usize,
        width: usize,
    },
    /// Of a whole sequence.
    Attention {
        heads: usize,
        kv_heads: usize,
        head_dim: usize,
        tokens: usize,
        window: Option<usize>,
    },
}

/// Which kernel computes a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    /// The one that everything uses.
    Shared,
    /// The same in the configuration that is fastest by exhaustive search, to compare with.
    Best,
    /// One result a thread, to compare with.
    Naive,
}

/// What is left of a layer's residual width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerSlicing {
    Dense,
    /// Three quarters, and a shortcut past each half.
    Sliced,
    /// Three quarters in one basis for the whole model, which needs no shortcuts.
    WithoutShortcuts,
}

const fn gemm(name: &'static str, what: &'static str, m: usize, n: usize, k: usize, when: When) -> Workload {
    Workload { name, what, case: Case::Gemm { kernel: Product::Shared, m, n, k, weights: ElementType::F16 }, when }
}

const fn square(
    name: &'static str,
    what: &'static str,
    kernel: Product,
    m: usize,
    n: usize,
    k: usize,
    when: When,
) -> Workload {
    Workload { name, what, case: Case::Gemm { kernel, m, n, k, weights: ElementType::F32 }, when }
}

const fn layer(name: &'static str, what: &'static str, tokens: usize, slicing: LayerSlicing, when: When) -> Workload {
    let past = if tokens == 1 { 511 } else { 0 };
    Workload { name, what, case: Case::Layer { tokens, past, slicing }, when }
}

const fn attention(
    name: &'static str,
    what: &'static str,
    [heads, kv_heads, head_dim]: [usize; 3],
    [tokens, past]: [usize; 2],
    window: Option<usize>,
    when: When,
) -> Workload {
    Workload { name, what, case: Case::Attention { heads, kv_heads, head_dim, tokens, past, window }, when }
}

const fn backward(name: &'static str, what: &'static str, gradient: Gradient) -> Workload {
    Workload { name, what, case: Case::Backward(gradient), when: Full }
}

use LayerSlicing::{Dense, Sliced, WithoutShortcuts};
use Product::{Best, Naive, Shared};
use When::{Full, Hardware, Quick};

/// Every workload, in the order of running.
#[rustfmt::skip]
pub const WORKLOADS: &[Workload] = &[
    Workload { name: "probe/fma", what: "f32 multiply-adds in registers", case: Case::Fma, when: Quick },
    Workload { name: "probe/copy", what: "a copy of 128 MiB, read and written bytes", case: Case::Copy, when: Quick },
    gemm("gemm/opt-125m/q/prefill-512", "q, k, v or o, f16 weights", 512, 768, 768, Quick),
    gemm("gemm/opt-125m/fc1/prefill-512", "first half of the MLP, f16 weights", 512, 3072, 768, Quick),
    gemm("gemm/opt-125m/fc2/prefill-512", "second half of the MLP, f16 weights", 512, 768, 3072, Full),
    gemm("gemm/opt-125m/fc1/decode", "one token, f16 weights", 1, 3072, 768, Full),
    gemm("gemm/tinyllama-1.1b/q/prefill-512", "q or o, f16 weights", 512, 2048, 2048, Full),
    gemm("gemm/tinyllama-1.1b/gate/prefill-512", "gate or up, f16 weights", 512, 5632, 2048, Full),
    gemm("gemm/tinyllama-1.1b/down/prefill-512", "down, f16 weights", 512, 2048, 5632, Full),
    gemm("gemm/tinyllama-1.1b/gate/decode", "one token, f16 weights", 1, 5632, 2048, Full),
    gemm("gemm/llama-2-7b/q/prefill-512", "q, k, v or o, f16 weights", 512, 4096, 4096, Full),
    gemm("gemm/llama-2-7b/gate/prefill-512", "gate or up, f16 weights", 512, 11008, 4096, Full),
    gemm("gemm/llama-2-7b/down/prefill-512", "down, f16 weights", 512, 4096, 11008, Full),
    gemm("gemm/llama-2-7b/q/decode", "one token, f16 weights", 1, 4096, 4096, Full),
    gemm("gemm/llama-2-7b/gate/decode", "one token, f16 weights", 1, 11008, 4096, Quick),
    gemm("gemm/llama-2-7b/down/decode", "one token, f16 weights", 1, 4096, 11008, Full),
    square("gemm/f32/512x768x768", "M, N, K; f32", Shared, 512, 768, 768, Quick),
    square("gemm/f32/512x3072x768", "M, N, K; f32", Shared, 512, 3072, 768, Full),
    square("gemm/f32/2048x3072x3072", "M, N, K; f32", Shared, 2048, 3072, 3072, Full),
    square("gemm/f32/4096x4096x4096", "M, N, K; f32", Shared, 4096, 4096, 4096, Hardware),
    square("gemm-best/f32/512x768x768", "the same in the best of all configurations", Best, 512, 768, 768, Full),
    square("gemm-best/f32/512x3072x768", "the same in the best of all configurations", Best, 512, 3072, 768, Full),
    square("gemm-best/f32/2048x3072x3072", "the same in the best of all configurations", Best, 2048, 3072, 3072, Full),
    square("gemm-naive/f32/512x768x768", "the same, one result a thread", Naive, 512, 768, 768, Quick),
    square("gemm-naive/f32/512x3072x768", "the same, one result a thread", Naive, 512, 3072, 768, Full),
    Workload { name: "covariance/768", what: "upper triangle, 2048 \
         tokens", case: Case::Covariance { width: 768, tokens: 2048 }, when: Quick },
    square("gemm/square/768", "the same by the shared product, both triangles", Shared, 768, 768, 2048, Quick),
    Workload { name: "covariance/2048", what: "upper triangle, 2048 \
         tokens", case: Case::Covariance { width: 2048, tokens: 2048 }, when: Full },
    square("gemm/square/2048", "the same by the shared product, both triangles", Shared, 2048, 2048, 2048, Full),
    Workload { name: "eigh/1024", what: "symmetric eigenproblem in f64 on the CPU, all \
         cores", case: Case::Eigh { width: 1024 }, when: Quick },
    Workload { name: "eigh/2048", what: "symmetric eigenproblem in f64 on the CPU, all \
         cores", case: Case::Eigh { width: 2048 }, when: Full },
    attention("attention/opt-125m/prefill-512", "12 heads of 64", [12, 12, 64], [512, 0], None, Quick),
    attention("attention/tinyllama-1.1b/prefill-1024", "32 heads of 64 on 4 of keys and \
         values", [32, 4, 64], [1024, 0], None, Full),
    attention("attention/tinyllama-1.1b/prefill-1024-window-128", "the same in a \
         window", [32, 4, 64], [1024, 0], Some(128), Full),
    attention("attention/llama-2-7b/prefill-512", "32 heads of 128", [32, 32, 128], [512, 0], None, Full),
    attention("attention/llama-2-7b/decode-2048", "one token after 2047", [32, 32, 128], [1, 2047], None, Full),
    Workload { name: "norm/tinyllama-1.1b/prefill-512", what: "RMS \
         norm", case: Case::Norm { tokens: 512, width: 2048 }, when: Full },
    Workload { name: "activation/tinyllama-1.1b/prefill-512", what: "SiLU of one half times the \
         other", case: Case::Activation { tokens: 512, width: 5632 }, when: Full },
    backward("backward/f32/512x3072x768", "of what a linear layer reads, and of its \
         weight", Gradient::Linear { m: 512, n: 3072, k: 768 }),
    backward("backward/tinyllama-1.1b/norm/prefill-512", "RMS norm", Gradient::Norm { tokens: 512, width: 2048 }),
    backward("backward/tinyllama-1.1b/activation/prefill-512", "SiLU of one half times the \
         other", Gradient::Activation { tokens: 512, width: 5632 }),
    backward("backward/opt-125m/attention/prefill-512", "12 heads of \
         64", Gradient::Attention { heads: 12, kv_heads: 12, head_dim: 64, tokens: 512, window: None }),
    backward("backward/tinyllama-1.1b/attention/prefill-1024", "32 heads of 64 on 4 of keys and \
         values", Gradient::Attention { heads: 32, kv_heads: 4, head_dim: 64, tokens: 1024, window: None }),
    backward("backward/tinyllama-1.1b/attention/prefill-1024-window-128", "the same in a \
         window", Gradient::Attention { heads: 32, kv_heads: 4, head_dim: 64, tokens: 1024, window: Some(128) }),
    backward("backward/llama-2-7b/attention/prefill-512", "32 heads of \
         128", Gradient::Attention { heads: 32, kv_heads: 32, head_dim: 128, tokens: 512, window: None }),
    layer("layer/opt-125m/prefill-512/dense", "one decoder layer", 512, Dense, Quick),
    layer("layer/opt-125m/prefill-512/sliced-25", "with shortcuts", 512, Sliced, Quick),
    layer("layer/llama-2-7b/prefill-512/dense", "one decoder layer", 512, Dense, Full),
    layer("layer/llama-2-7b/prefill-512/sliced-25", "with shortcuts", 512, Sliced, Full),
    layer("layer/llama-2-7b/prefill-512/sliced-25-no-shortcuts", "one basis for all \
         layers", 512, WithoutShortcuts, Full),
    layer("layer/llama-2-7b/decode/dense", "one token after 511", 1, Dense, Full),
    layer("layer/llama-2-7b/decode/sliced-25", "with shortcuts", 1, Sliced, Full),
    layer("layer/llama-2-7b/decode/sliced-25-no-shortcuts", "one basis for all layers", 1, WithoutShortcuts, Full),
    Workload {
        name: "run/opt-125m", what: "slicing a whole model of random weights by 25 %, 8 sequences of 128 \
             tokens", when: Full,
        case: Case::Run { sequences: 8, seqlen: 128 },
    },
];

/// The workloads that a call asks for. The two probes are always among them, since all others are percentages of
/// those.
///
/// # Errors
/// [`Error::Usage`] if a filter is part of no name.
pub fn select(filters: &[String], quick: bool, software: bool) -> Result<Vec<&'static Workload>> {
    let wanted = |workload: &Workload| match (filters.is_empty(), quick, workload.when) {
        (false, _, _) => filters.iter().any(|filter| workload.name.contains(filter.as_str())),
        (true, _, Quick) => true,
        (true, quick, Full) => !quick,
        (true, quick, Hardware) => !quick && !software,
    };
    if let Some(filter) =
        filters.iter().find(|filter| !WORKLOADS.iter().any(|workload| workload.name.contains(filter.as_str())))
    {
        return Err(Error::Usage(format!(
            "--filter {filter:?} is part of no workload's name; `slicegpt-gpu bench --list` tells them"
        )));
    }
    Ok(WORKLOADS
        .iter()
        .filter(|workload| matches!(workload.case, Case::Fma | Case::Copy) || wanted(workload))
        .collect())
}
