//! The bases at the points of the residual stream, as they are found.

use std::time::Instant;

use faer::{Mat, MatRef};

use super::{
    options::{Options, Orientation},
    plan::Plan,
    snapshot::Site,
};
use crate::{
    error::Result,
    fit::{Covariance, Rotation, TiedAxes},
    gpu::Gpu,
    linalg::random_orthogonal,
    stream::{Pass, located},
};

/// What is cut at each point, and what was found there.
pub struct Points<'a> {
    pub options: &'a Options,
    pub plan: &'a Plan,
    pub sites: Vec<Site>,
}

impl Points<'_> {
    /// The rotation into the first `width` of some orthonormal columns, rotated at random if that is asked for;
    /// `stream` tells it from others.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`].
    pub fn rotation(&self, gpu: &Gpu, axes: MatRef<'_, f64>, width: usize, stream: usize) -> Result<Rotation> {
        let kept = axes.subcols(0, width);
        match self.options.orientation {
            Orientation::Pca => Rotation::upload(gpu, kept, width),
            Orientation::Random => {
                let rotated: Mat<f64> = kept * random_orthogonal(width, self.options.seed, stream as u64);
                Rotation::upload(gpu, rotated.as_ref(), width)
            }
        }
    }

    /// Coordinates for a tied head, rotated at random if that is asked for.
    pub fn rotated(&self, tied: TiedAxes, stream: usize) -> TiedAxes {
        match self.options.orientation {
            Orientation::Pca => tied,
            Orientation::Random => tied.rotated(self.options.seed, stream as u64),
        }
    }

    /// The rotation into the first `width` principal axes of a signal, recorded as the next site, after a layer or the
    /// embeddings.
    ///
    /// # Errors
    /// [`crate::Error::Numerical`] if the covariance is not finite or the solve fails its check; whatever the GPU
    /// reports.
    pub fn axes(
        &mut self,
        pass: &Pass,
        layer: Option<usize>,
        covariance: Covariance,
        width: usize,
    ) -> Result<Rotation> {
        let began = Instant::now();
        let place = layer.map_or_else(|| "embeddings".into(), |layer| format!("layer {layer}"));
        let eigen = located(place, covariance.principal_axes(pass.gpu))?;
        pass.timed("eigensolve", began);
        let rotation = self.rotation(pass.gpu, eigen.vectors.as_ref(), width, self.sites.len())?;
        let kept_energy = eigen.kept_energy(self.plan.width);
        self.sites.push(Site {
            layer,
            kept_energy,
            eigen_residual: eigen.residual,
            orthogonality: eigen.orthogonality,
        });
        Ok(rotation)
    }
}
