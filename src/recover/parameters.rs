//! What is trained, and the optimiser's memory of it.

use super::options::Options;
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Matrix},
    ops::AdamW,
};

/// A matrix that is trained, with its two moments, in f32.
pub(super) struct Parameter {
    pub value: Matrix,
    moments: [Matrix; 2],
    gradient: Option<Matrix>,
}

impl Parameter {
    pub fn new(gpu: &Gpu, values: &[f32], rows: usize, cols: usize) -> Result<Self> {
        let value = gpu.upload(values, rows, cols)?;
        Ok(Self { value, moments: [gpu.zeros(rows, cols)?, gpu.zeros(rows, cols)?], gradient: None })
    }

    /// Values between ± 1 / √cols, as PyTorch begins a linear layer; `stream` tells apart what has the same seed.
    pub fn drawn(gpu: &Gpu, [rows, cols]: [usize; 2], seed: u64, stream: u64) -> Result<Self> {
        let (first, bound) = (mixed(seed ^ mixed(stream)), 1.0 / (cols as f64).sqrt());
        let draw = |index: usize| {
            let bits = mixed(first.wrapping_add((index as u64 + 1).wrapping_mul(GOLDEN))) >> 40;
            (bound * (bits as f64 / f64::from(1 << 23) - 1.0)) as f32
        };
        let values: Vec<f32> = (0..rows * cols).map(draw).collect();
        Self::new(gpu, &values, rows, cols)
    }

    pub fn zeros(gpu: &Gpu, rows: usize, cols: usize) -> Result<Self> {
        Self::new(gpu, &vec![0.0; rows * cols], rows, cols)
    }

    fn len(&self) -> usize {
        self.value.rows() * self.value.cols()
    }

    pub fn set_gradient(&mut self, gradient: Option<&Matrix>) -> Result<()> {
        let none = || Error::shape("training", "a parameter without a gradient");
        self.gradient = Some(gradient.ok_or_else(none)?.clone());
        Ok(())
    }

    /// Values and moments one after the other.
    fn state(&self, gpu: &Gpu) -> Result<Vec<f32>> {
        let mut state = gpu.download(&self.value)?;
        for moment in &self.moments {
            state.extend(gpu.download(moment)?);
        }
        Ok(state)
    }

    fn restore(&mut self, gpu: &Gpu, state: &[f32]) -> Result<()> {
        let (rows, cols) = (self.value.rows(), self.value.cols());
        let mut parts = state.chunks_exact(self.len());
        for matrix in [&mut self.value].into_iter().chain(&mut self.moments) {
            let part = parts.next().ok_or_else(|| Error::shape("training", "a state of another size"))?;
            *matrix = gpu.upload(part, rows, cols)?;
        }
        Ok(())
    }
}

/// 2⁶⁴ over the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The bits of a number, mixed (SplitMix64 of Steele, Lea and Flood).
fn mixed(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// The squared length of all gradients together.
fn squared_length(gpu: &Gpu, parameters: &[&mut Parameter]) -> Result<f64> {
    let gradients = parameters.iter().filter_map(|parameter| parameter.gradient.as_ref());
    let energies: Vec<_> =
        gradients.map(|gradient| gpu.download_later(&gpu.energy(gradient)?)).collect::<Result<_>>()?;
    let mut total = 0.0;
    for energy in energies {
        total += energy.wait(gpu)?.into_iter().map(f64::from).sum::<f64>();
    }
    Ok(total)
}

/// One step of the optimiser, number `step` from 0, with the gradients that were set; returns their length before it
/// was clipped.
pub(super) fn update(gpu: &Gpu, options: &Options, step: usize, mut parameters: Vec<&mut Parameter>) -> Result<f64> {
    let length = squared_length(gpu, &parameters)?.sqrt();
    if !length.is_finite() {
        return Err(Error::Numerical(format!("the length of the gradient is {length}")));
    }
    // As torch.nn.utils.clip_grad_norm_ has it.
    let most = options.max_grad_norm;
    let scale = if most > 0.0 { (most / (length + 1e-6)).min(1.0) } else { 1.0 };
    let rate = options.learning_rate * options.schedule.share(step, options.warmup_steps(), options.steps);
    for parameter in &mut parameters {
        let Some(gradient) = parameter.gradient.take() else { continue };
        // Norms and biases do not decay.
        let weight_decay = if parameter.value.rows() > 1 { options.weight_decay } else { 0.0 };
        let adamw = AdamW { rate, betas: options.betas, eps: options.eps, weight_decay, step: step as u32 + 1 };
        let [m, v] = &parameter.moments;
        gpu.adamw(&adamw, &gradient, scale as f32, [&parameter.value, m, v])?;
    }
    Ok(length)
}

/// Everything that training goes on from.
pub(super) fn state(gpu: &Gpu, parameters: &[&mut Parameter]) -> Result<Vec<f32>> {
    let mut all = Vec::new();
    for parameter in parameters {
        all.extend(parameter.state(gpu)?);
    }
    Ok(all)
}

/// Puts all that back.
pub(super) fn restore(gpu: &Gpu, parameters: Vec<&mut Parameter>, state: &[f32]) -> Result<()> {
    let mut rest = state;
    for parameter in parameters {
        let own = rest.split_at_checked(3 * parameter.len());
        let (own, others) = own.ok_or_else(|| Error::shape("training", "a state of another size"))?;
        parameter.restore(gpu, own)?;
        rest = others;
    }
    if rest.is_empty() { Ok(()) } else { Err(Error::shape("training", "a state of another size")) }
}
