//! slicegpt-gpu makes large language models smaller on any GPU: SliceGPT (arXiv 2401.15024) as WGSL compute shaders on wgpu.
//!
//! # The way of the data
//! [`checkpoint`] (tensors read from files) → [`model`] (architecture table, config, weights) → [`slice::fuse`] → for each layer: forward pass on the
//! GPU ([`model::LayerContext`], [`ops`], [`gpu`]) → covariance (GPU) → [`linalg::eigh()`] (CPU, f64) → rotation (GPU) → [`checkpoint`] again →
//! [`eval`], [`generate`]. One direction, no back and forth; the weights of half a layer on the GPU at a time.
//!
//! # Why it works
//! With the norms' parameters fused into the weights beside them, RMSNorm(x·Q) = RMSNorm(x)·Q for every orthogonal Q. So the residual stream may
//! live in any orthonormal basis, provided that each weight that reads it becomes W·Q, each that writes it Qᵀ·W, and a skip connection between
//! two bases carries x·(QᵀQ'). In the basis of the signal's principal axes the last coordinates carry least, and are cut. See [`mod@slice`].
//!
//! # Who may import whom
//! `cli → report → memory → {slice, eval, generate} → model → ops → gpu → error`; `record` imports `eval`; `linalg` imports only `error`; `wgpu` appears in `gpu` alone, `clap` in
//! `cli` alone, tensor names and `model_type`s in `model` alone. The library never prints, outside of `cli`, and never panics on user data.

pub mod bench;
pub mod checkpoint;
pub mod cli;
pub mod data;
pub mod error;
pub mod eval;
pub mod generate;
pub mod gpu;
pub mod linalg;
pub mod memory;
pub mod model;
pub mod ops;
pub mod progress;
pub mod record;
#[doc(hidden)]
pub mod reference;
pub mod report;
pub mod slice;
pub mod stream;
pub mod synthetic;
pub mod trace;

pub use error::{Error, Result};
