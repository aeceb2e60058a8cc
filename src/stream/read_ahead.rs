//! Weights on their way from the file, read and fused while the GPU works with those before them.

use std::{
    ops::Range,
    sync::mpsc::{Receiver, sync_channel},
    thread::Scope,
};

use crate::{
    error::{Error, Result},
    model::{HostLinear, Model, fuse},
};

/// Finished matrices that wait for the GPU; another one is in the making.
const WAITING: usize = 1;
/// Matrices in host memory, beside the one that is being uploaded.
pub const MATRICES_AHEAD: u64 = WAITING as u64 + 1;

/// The linear weights of some layers, step by step, in f32.
pub struct ReadAhead {
    weights: Receiver<Result<HostLinear<'static>>>,
}

impl ReadAhead {
    /// Begins to read; norms are fused into the weights if `fused`. An error is returned where the weight would be; the
    /// thread ends with the last one, or when nobody waits for more.
    pub fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        model: &'scope Model,
        layers: Range<usize>,
        fused: bool,
    ) -> Self {
        let (sender, weights) = sync_channel(WAITING);
        scope.spawn(move || {
            let config = model.config();
            let each = |layer: usize| -> Result<bool> {
                let host = model.store.layer(layer)?;
                for block in host.blocks() {
                    for stored in &block.linears {
                        let weight = if fused { fuse::linear(config, block, stored) } else { stored.widened() };
                        if sender.send(weight).is_err() {
                            return Ok(false);
                        }
                    }
                }
                Ok(true)
            };
            for layer in layers {
                match each(layer) {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(error) => {
                        let _ = sender.send(Err(error));
                        return;
                    }
                }
            }
        });
        Self { weights }
    }

    /// The next weight.
    ///
    /// # Errors
    /// [`Error::BadTensor`], [`Error::Read`]; [`Error::Shape`] after the last one.
    pub fn next(&self) -> Result<HostLinear<'static>> {
        self.weights.recv().map_err(|_| Error::shape("read ahead", "no more weights"))?
    }
}
