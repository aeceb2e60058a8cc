//! SliceGPT (arXiv 2401.15024): rotate the residual stream into its principal axes, and cut the rows and columns that
//! carry least.
//!
//! RMS norm without parameters scales a token by a number that depends on its length alone, so for orthogonal Q
//!
//! ```text
//!     RMSNorm(x·Q) = RMSNorm(x)·Q
//! ```
//!
//! and the residual stream may live in any orthonormal basis, provided that what reads it gets W·Q and what writes it
//! gets Qᵀ·W. If the basis changes from Q to Q' between two points, the skip connection carries x·(QᵀQ'), the shortcut.
//! With Q the eigenvectors of C = Σ x·xᵀ over calibration tokens, by descending eigenvalue, the mean loss of dropping
//! all but the first d coordinates is E‖x − x·Q_d·Q_dᵀ‖² = Σ_{i>d} λ_i, the least that any d-dimensional subspace
//! allows (Ky Fan).
//!
//! The residual of every calibration token is kept in the original basis, always carrying the error of all that is
//! sliced before it. For each half of each layer: rotate what reads, run it from the sliced signal, find the axes of
//! the result, rotate what writes, slice the signal. Each attention and each MLP runs once. Parallel blocks are one
//! half instead of two; nothing else differs. (`paper`)
//!
//! Where several layers share a basis, no shortcut is needed between them; one basis for the whole model leaves an
//! ordinary model, only narrower. The basis is found from the dense model's signals and weights first (`basis`). What
//! that costs comes back by least squares: the dense model runs beside the sliced one, and the weights are fitted to
//! what it does (`refit`, [`crate::fit`]). A head that is the embedding stays so where the stock form allows, in
//! coordinates that leave both one matrix ([`crate::fit::TiedAxes`]). For every basis but the paper's way with the
//! paper's bases, a layer's inner signals are worked out twice, for the sums and for the result: kept, they would be
//! several times the residual.

mod basis;
mod driver;
mod estimate;
mod memory;
mod options;
mod paper;
mod plan;
mod points;
mod refit;
mod schedule;
mod snapshot;

pub use crate::{
    fit::{Covariance, Rotation, Signal},
    stream::Types,
};
pub use driver::{Job, slice};
pub use estimate::multiply_adds;
pub use options::{Basis, Cut, Head, Options, Orientation, Refit};
pub use plan::{Plan, can_stay_tied};
pub use schedule::sliced_width;
pub use snapshot::{Site, Snapshot, Stage};
