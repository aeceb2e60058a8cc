//! LLM-Pruner: structured removal of coupled groups by what gradients say that they matter.
//!
//! A group is what only makes sense together: a channel of an MLP, its row in gate and up and its column in down; or a
//! key-value head with the queries that read it, its rows in queries, keys and values and its columns in the output.
//! The gradients of the mean next-token loss of a few examples are worked out a step of a layer at a time
//! ([`crate::stream::Gradients`]); weights and gradients say what each group matters (`importance`, `measure`); the
//! least important leave, layer by layer or of all layers in one row (`choice`), at once or in rounds with new
//! gradients in each; and what is left is written as it is (`driver`). The width of the residual stream stays; or
//! coordinates of it leave everywhere, and all else stays (`coordinates`). Of mixtures, heads leave, or whole experts
//! by what they add to the residual stream (`experts`, `expert_scores`).

mod choice;
mod coordinates;
mod driver;
mod expert_scores;
mod experts;
mod importance;
mod measure;
mod memory;
mod plan;

pub use choice::{LayerImportance, Share, cut, leaving};
pub use driver::{Job, Snapshot};
pub use expert_scores::expert_scores;
pub use experts::{ExpertScores, cut_experts, experts_leaving};
pub use importance::{Aggregate, Evidence, Importance, of_channels, of_heads};
pub use plan::{Groups, Options, Plan};
