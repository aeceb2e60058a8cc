//! One expert of a mixture, forward: a gated MLP, of the tokens that it gets. In turn they come in
//! [`super::mixture`], and the one that every token goes to in [`super::shared_expert`].

use super::{
    architecture::Role,
    host::HostLinear,
    layer::{LayerContext, Linear},
};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Matrix},
    ops::RowCopy,
};

/// A token that an expert gets.
#[derive(Debug, Clone, Copy)]
pub struct Given {
    pub token: u32,
    pub gate: f32,
    /// The gate divided by the sum of its token's gates.
    pub(super) share: f32,
    /// Where the gate is in the list of all tokens' gates.
    pub(super) place: u32,
}

impl LayerContext<'_> {
    /// What the expert that every token goes to gets of what the experts read: all, with the sigmoid of the product
    /// with its `gate`.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; whatever the readback reports.
    pub fn shared(&self, gate: &Linear, normed: &Matrix) -> Result<Vec<Given>> {
        let logits = self.gpu.download(&self.gpu.product(normed, &gate.weight)?)?;
        let given = |(token, logit): (usize, f32)| {
            let gate = (1.0 / (1.0 + (-f64::from(logit)).exp())) as f32;
            Given { token: token as u32, gate, share: gate, place: token as u32 }
        };
        Ok(logits.into_iter().enumerate().map(given).collect())
    }

    /// How many tokens an expert with these weights takes at once: what one binding holds of its inner activations.
    ///
    /// # Errors
    /// [`Error::Shape`] if a weight is missing.
    pub fn expert_rows(&self, linears: &[Linear]) -> Result<usize> {
        let inner = weight(linears, Role::Gate)?.weight.rows();
        Ok(self.gpu.rows_per_binding(2 * inner.next_multiple_of(4) * 4))
    }

    /// What the last linear layer of an expert reads, of tokens `normed` `[tokens, width]`.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::OutOfMemory`].
    pub fn expert_hidden(&self, linears: &[Linear], normed: &Matrix) -> Result<Matrix> {
        self.expert_activated(&self.expert_projected(linears, normed)?)
    }

    /// Gate and up of an expert side by side.
    pub(super) fn expert_projected(&self, linears: &[Linear], normed: &Matrix) -> Result<Matrix> {
        let (gpu, inner) = (self.gpu, weight(linears, Role::Gate)?.weight.rows());
        let both = gpu.unfilled(normed.rows(), 2 * inner)?;
        for (role, column) in [(Role::Gate, 0), (Role::Up, inner)] {
            let Linear { weight, bias, .. } = weight(linears, role)?;
            gpu.linear_layer(normed, weight, bias.as_ref(), &both, column, false)?;
        }
        Ok(both)
    }

    pub(super) fn expert_activated(&self, both: &Matrix) -> Result<Matrix> {
        match self.spec().swiglu {
            Some(swiglu) => self.gpu.clamped_swiglu(swiglu, both),
            None => self.gpu.activation(self.config.activation, true, both),
        }
    }

    /// The gradient of gate and up side by side, from that of what the last linear layer reads.
    pub(super) fn expert_activated_backward(&self, both: &Matrix, d: &Matrix) -> Result<Matrix> {
        match self.spec().swiglu {
            Some(swiglu) => self.gpu.clamped_swiglu_backward(swiglu, both, d),
            None => self.gpu.activation_backward(self.config.activation, true, both, d),
        }
    }

    /// What an expert makes of what its last linear layer reads.
    pub(super) fn expert_result(&self, linears: &[Linear], hidden: &Matrix) -> Result<Matrix> {
        let Linear { weight, bias, .. } = weight(linears, Role::Down)?;
        let result = self.gpu.unfilled(hidden.rows(), weight.rows())?;
        self.gpu.linear_layer(hidden, weight, bias.as_ref(), &result, 0, false)?;
        Ok(result)
    }

    /// Adds what an expert makes of the tokens given to `x`; `tap` gets their shares, and what it gives before the
    /// gates.
    pub(super) fn expert(
        &self,
        linears: &[Linear],
        normed: &Matrix,
        given: &[Given],
        x: &Matrix,
        tap: &mut dyn FnMut(&[f32], &Matrix) -> Result<()>,
    ) -> Result<()> {
        let gpu = self.gpu;
        for tokens in given.chunks(self.expert_rows(linears)?) {
            let hidden = self.expert_hidden(linears, &gathered(gpu, normed, tokens)?)?;
            let result = self.expert_result(linears, &hidden)?;
            let shares: Vec<f32> = tokens.iter().map(|given| given.share).collect();
            tap(&shares, &result)?;
            gpu.add_rows(&result, x, &targets(tokens))?;
        }
        Ok(())
    }
}

/// Where what is made of tokens goes to, and what it is multiplied by.
pub(super) fn targets(given: &[Given]) -> Vec<(u32, f32)> {
    given.iter().map(|given| (given.token, given.gate)).collect()
}

/// Weights on the GPU.
pub(super) fn uploaded(gpu: &Gpu, linears: &[HostLinear]) -> Result<Vec<Linear>> {
    linears.iter().map(|linear| Linear::upload(gpu, linear)).collect()
}

pub(super) fn weight(linears: &[Linear], role: Role) -> Result<&Linear> {
    let found = linears.iter().find(|linear| linear.role == role);
    found.ok_or_else(|| Error::shape("expert", format!("an expert without its {role:?}")))
}

/// The rows of `x` of the tokens given, in a matrix of their own.
///
/// # Errors
/// [`Error::OutOfMemory`].
pub fn gathered(gpu: &Gpu, x: &Matrix, given: &[Given]) -> Result<Matrix> {
    let rows: Vec<(usize, usize)> = given.iter().enumerate().map(|(row, given)| (given.token as usize, row)).collect();
    let found = gpu.unfilled(given.len(), x.cols())?;
    gpu.copy_rows(x, &found, &rows, RowCopy::whole(x.cols()))?;
    Ok(found)
}
