//! The backward pass of the end of a model: from the loss to the last residual, a slice of the vocabulary at a time.

use super::{
    backward::{AffineGradients, add, add_sums},
    config::Config,
    ends::Readout,
};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Matrix},
    ops::{Bound, NormInput},
};

/// The next tokens of a batch, as the gradient of their loss needs them.
pub struct Targets {
    /// One a token, `u32::MAX` where there is none.
    pub ids: Matrix,
    /// What the loss of each came to over the whole vocabulary: [`Gpu::loss`].
    pub state: Matrix,
    /// What each loss is multiplied by.
    pub factor: f32,
}

/// Some rows of the head, from `first` on, and what they read.
#[derive(Clone, Copy)]
pub struct HeadSlice<'a> {
    /// `[tokens, width]`.
    pub input: &'a Matrix,
    pub first: usize,
    /// `[entries, width]`, no more than [`super::logit_entries`].
    pub table: &'a Matrix,
}

/// What a teacher says of the same tokens, for the same rows of its own head.
#[derive(Clone, Copy)]
pub struct TeacherSlice<'a> {
    pub readout: &'a Readout,
    /// `[tokens, the teacher's width]`.
    pub input: &'a Matrix,
    pub table: &'a Matrix,
    /// What [`Gpu::divergence_at`] has made of the whole vocabulary.
    pub state: &'a Matrix,
    pub temperature: f32,
    /// What the gradient is multiplied by.
    pub factor: f32,
}

impl Readout {
    /// Adds to `d_input` `[tokens, width]`, the gradient of what the head has read, what comes of the divergence of a
    /// teacher's predictions, from some rows of both heads.
    ///
    /// # Errors
    /// As [`Readout::loss_backward`].
    pub fn divergence_backward(
        &self,
        gpu: &Gpu,
        HeadSlice { input, first, table }: HeadSlice,
        teacher: TeacherSlice,
        d_input: &Matrix,
    ) -> Result<()> {
        let TeacherSlice { readout, temperature, factor, state, .. } = teacher;
        readout.logits(gpu, teacher.input, first, teacher.table, |start, p| {
            if (start, p.cols()) != (first, table.rows()) {
                return Err(Error::shape("divergence_backward", format!("{} rows of the head at once", table.rows())));
            }
            self.logits(gpu, input, first, table, |_, q| {
                let d = gpu.divergence_backward_at(p, q, state, factor, temperature)?;
                if let Some(limit) = self.softcap() {
                    gpu.bound_backward_in_place(Bound::SoftCap, q, limit, &d)?;
                }
                gpu.linear_backward(&d, 0..d.cols(), table, d_input, true)
            })
        })
    }

    /// Adds to `d_input` `[tokens, width]`, the gradient of what the head has read, what comes of some of its rows, and
    /// to `sums`, where they are wanted, the gradients of these rows and their biases.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are more rows than logits of all tokens fit a binding; [`Error::OutOfMemory`].
    pub fn loss_backward(
        &self,
        gpu: &Gpu,
        slice: HeadSlice,
        targets: &Targets,
        d_input: &Matrix,
        mut sums: Option<&mut AffineGradients>,
    ) -> Result<()> {
        let HeadSlice { input, first, table } = slice;
        let bias = self.bias(first..first + table.rows()).is_some();
        self.logits(gpu, input, first, table, |start, logits| {
            if (start, logits.cols()) != (first, table.rows()) {
                return Err(Error::shape("loss_backward", format!("{} rows of the head at once", table.rows())));
            }
            let d = gpu.loss_backward(logits, first, &targets.ids, &targets.state, targets.factor)?;
            if let Some(limit) = self.softcap() {
                gpu.bound_backward_in_place(Bound::SoftCap, logits, limit, &d)?;
            }
            gpu.linear_backward(&d, 0..d.cols(), table, d_input, true)?;
            if let Some(sums) = &mut sums {
                add(gpu, &mut sums.weight, gpu.linear_weight_backward(&d, 0..d.cols(), input)?, 1.0)?;
                if bias {
                    add_sums(gpu, &mut sums.bias, &d, None, 0..d.cols())?;
                }
            }
            Ok(())
        })
    }

    /// The gradient of the last residual `x` `[tokens, width]` from that of what the head has read, `d`. Adds that of
    /// the final norm to `sums`.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::OutOfMemory`].
    pub fn norm_backward(
        &self,
        gpu: &Gpu,
        config: &Config,
        x: &Matrix,
        d: &Matrix,
        sums: &mut AffineGradients,
    ) -> Result<Matrix> {
        let (kind, norm_width, eps) = (self.norm_kind(config), config.hidden_size, config.norm_eps);
        if let Some(norm) = &self.final_norm {
            let n = gpu.norm(kind, x, None, None, norm_width, eps)?;
            sums.add_norm(gpu, norm, d, &n)?;
        }
        let weight = self.final_norm.as_ref().map(|norm| &norm.weight);
        let dx = gpu.unfilled(x.rows(), x.cols())?;
        gpu.norm_backward(NormInput { kind, x, weight, norm_width, eps }, d, &dx, false)?;
        Ok(dx)
    }

    /// Whether the final norm has parameters, and so the factor of the logits.
    pub fn has_norm(&self) -> bool {
        self.final_norm.is_some()
    }
}
