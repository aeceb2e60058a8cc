//! Recovery: training after a cut.
//!
//! A whole model is trained towards the next tokens of a text, or towards the predictions of a teacher (`driver`); or
//! each layer by itself towards the same layer of a teacher (`blocks`). What is trained are low-rank matrices beside
//! linear weights (LoRA, arXiv 2106.09685), the weights themselves, norms and biases (`weights`, `norms`), by AdamW
//! (`parameters`), on sequences in an order drawn from a seed (`order`). What came of it is written with the rest of
//! the model as it was (`write`). The experts and routers of mixtures stay.

mod blocks;
mod driver;
mod job;
mod memory;
mod norms;
mod options;
mod order;
mod parameters;
mod weights;
mod write;

pub use blocks::check_teacher;
pub use job::{Best, Job, Recovered, Snapshot};
pub use options::{Mode, Options, Schedule, Target, Trained};
