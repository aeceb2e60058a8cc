//! What can be done with a model, and why not: a model that can be read need not be one that can be cut.

use super::{architecture::QkSpan, config::Config};
use crate::error::{Error, Result};

/// Why methods that change what every layer has leave mixtures alone.
pub const MIXTURE: &str = "it is a mixture of experts: of these, `prune --experts SHARE` takes out whole experts, \
                           `prune --attention` heads, `compress` whole experts, heads and layers, and nothing else is \
                           implemented";

impl Config {
    /// Whether the width of the residual stream can be cut; a model that can be read need not be one.
    ///
    /// # Errors
    /// [`Error::Usage`] that says why not.
    pub fn can_slice(&self) -> Result<()> {
        match () {
            () if self.fused() => Err("this model is sliced already; slice the original to another sparsity instead"),
            () if self.is_mixture() => Err(MIXTURE),
            () if self.pruned => Err("the layers of this model differ in size, which sliced models have no form for"),
            () if self.architecture.has_norms_after() => Err(
                "the width of this model cannot be cut: norms after its blocks normalise what is added to the residual \
                 stream, which no rotation of the stream passes through; cut heads, channels, layers or tokens instead",
            ),
            () if self.architecture.names.embedding_norm.is_some() => Err(
                "the width of this model cannot be cut: the norm after its embedding has parameters that no rotation \
                 of the residual stream passes through; cut channels or layers instead",
            ),
            () => Ok(()),
        }
        .map_err(|reason| Error::Usage(reason.into()))
    }

    /// Whether heads can leave a layer; what other layers have makes no difference.
    ///
    /// # Errors
    /// [`Error::Usage`] that says why not.
    pub fn can_cut_heads(&self) -> Result<()> {
        let span = self.qk_norm().map(|norm| norm.span);
        let reason = if self.layers.iter().any(|layer| layer.alibi.is_some()) {
            "the slopes of its linear biases follow from the number of heads"
        } else if span == Some(QkSpan::Whole) {
            "the norms of its queries and keys span all heads"
        } else if self.layers.iter().any(|layer| layer.sinks) {
            "its attention has sinks, one for each head, which are not cut yet"
        } else if matches!(span, Some(QkSpan::PerHead | QkSpan::PerHeadTensors)) {
            "the norms of its queries and keys have weights for each head, which are not cut yet"
        } else {
            return Ok(());
        };
        Err(Error::Usage(format!("heads of this {} cannot leave: {reason}", self.architecture.model_type)))
    }

    /// Whether some of its layers are mixtures of experts.
    pub fn is_mixture(&self) -> bool {
        self.layers.iter().any(|layer| layer.experts.is_some())
    }

    /// Whether some of its layers have a gated delta net in place of attention.
    pub fn has_delta_nets(&self) -> bool {
        self.layers.iter().any(|layer| layer.delta.is_some())
    }
}
