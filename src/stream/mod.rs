//! A model block by block in less memory than it has, and what a method makes of it written as it goes.
//!
//! Weights come and go one step of a layer at a time: mapped file → host (read ahead) → GPU → output. The residual of
//! all tokens is the only large state, and lies on the GPU, in host memory or on the disk, wherever there is room.
//! After each layer, what is finished and what resuming needs is durable. A [`Method`] says what happens at each step;
//! [`run`] is the one loop over the layers. [`Gradients`] goes through a model and back.

mod commit;
mod expert_sums;
mod gradient_steps;
mod gradients;
mod gradients_memory;
mod losses;
mod memory;
mod pass;
mod read_ahead;
mod run;
mod sitting;
mod speed;
mod stock;
mod store;
mod training;
mod types;
mod writer;

pub use commit::{Checksum, Saved, exact};
pub use expert_sums::ExpertSums;
pub use gradients::{Change, Collect, Gradients, GradientsAt, Table};
pub use gradients_memory::{StepSums, gradients_peak, residual_bytes};
pub use memory::{Extent, MemoryPlan, Peak};
pub use pass::{Job, Pass, located};
pub use read_ahead::MATRICES_AHEAD;
pub use run::{At, Method, run};
pub use sitting::{Passed, Sitting};
pub use speed::Speed;
pub use stock::StockForm;
pub use store::{Placement, Residual};
pub use training::{Objective, Supply, Training};
pub use types::Types;
pub use writer::{Writer, transposed};
