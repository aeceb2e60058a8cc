//! slicegpt-gpu makes large language models smaller on any GPU, by WGSL compute shaders on wgpu: SliceGPT (arXiv
//! 2401.15024), LLM-Pruner (arXiv 2305.11627), cuts on every axis under one budget, and training after a cut.
//!
//! # The way of the data
//! [`checkpoint`] (tensors read from files) → [`model`] (architecture table, config, weights, fused norms) → [`stream`]
//! (for each layer: its weights to the GPU, its steps over all calibration tokens, its changed weights to the output) →
//! [`checkpoint`] again → [`eval`], [`generate`]. What happens to a step is a [`stream::Method`]: [`mod@slice`] has the
//! paper's, and that of bases for several layers with weights fitted again; [`compress`] cuts every axis, and [`prune`]
//! and [`recover`] go by gradients. What several of them fit is in [`fit`]. Products, sums and rotations are [`ops`] on
//! the [`gpu`]; eigenproblems and least squares are [`linalg`] (CPU, f64). The weights of one step are on the GPU at a
//! time.
//!
//! # A run from Rust
//! What `slicegpt-gpu run` does, without a command line; see [`run`] for its parts.
//! ```
//! use slicegpt_gpu::{
//!     progress::Silent,
//!     run::{Log, Request, Slice, SliceRequest, Task, open_model},
//!     slice::Cut,
//! };
//!
//! # let directory = tempfile::tempdir()?;
//! # let output = directory.path().join("smaller");
//! let method = SliceRequest { cut: Cut::Sparsity(0.25), ..SliceRequest::default() };
//! let mut request = Request::new("assets/demo", output, method);
//! request.calibration.calibration = "assets/demo/calibration.txt".into();
//! # (request.calibration.cal_nsamples, request.calibration.cal_max_seqlen) = (Some(2), 64);
//! # request.eval = vec![directory.path().join("eval.json")];
//! # std::fs::write(directory.path().join("eval.json"), r#"{"input_ids": [[1, 2, 3, 4]]}"#)?;
//! let log = Log::new(Silent);
//! let model = open_model(&request.model, &log)?;
//! let task = Task::<Slice>::plan(&model, &request, &log)?;
//! let outcome = task.work()?;
//! print!("{}", task.report(&outcome)?.table());
//! # assert!(outcome.finished && outcome.perplexity.is_some());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Why it works
//! With the norms' parameters fused into the weights beside them, RMSNorm(x·Q) = RMSNorm(x)·Q for every orthogonal Q.
//! So the residual stream may live in any orthonormal basis, provided that each weight that reads it becomes W·Q, each
//! that writes it Qᵀ·W, and a skip connection between two bases carries x·(QᵀQ'). In the basis of the signal's
//! principal axes the last coordinates carry least, and are cut. See [`mod@slice`].
//!
//! # Who may import whom
//! `cli → run → {slice, prune, compress, recover} → {fit, stream} → model → {checkpoint, ops} → gpu → error`, and
//! nobody against an arrow. [`run`] is the application without a terminal; it finds models by name with [`hub`].
//! [`eval`] and [`generate`] stand on `model`, [`mod@bench`] on all that is measured, [`data`], [`progress`] and
//! `linalg` on `error`. The list is `ROOMS` of `tests/layout/main.rs`, which holds it, and that no files import each
//! other in a circle. `wgpu` appears in `gpu` only, `clap` in `cli` only, tensor names and `model_type`s in `model`
//! only. The library never prints, outside of `cli`, and never panics on user data.

pub mod bench;
pub mod checkpoint;
pub mod cli;
pub mod compress;
pub mod data;
pub mod error;
pub mod eval;
pub mod fit;
pub mod generate;
pub mod gpu;
pub mod hub;
pub mod json;
pub mod linalg;
pub mod model;
pub mod ops;
pub mod progress;
pub mod prune;
pub mod recover;
#[doc(hidden)]
pub mod reference;
pub mod run;
pub mod slice;
pub mod stream;
pub mod synthetic;
pub mod trace;

pub use error::{Error, Result};
