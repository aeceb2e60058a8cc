//! What is done of a pruning, with or without a re-fit.

use serde::{Deserialize, Serialize};

use crate::{compress::Refitted, prune::Snapshot};

/// What is done and durable.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PruneSnapshot {
    pub ranked: Snapshot,
    /// How far what is left is fitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fitting: Option<Refitted>,
}
