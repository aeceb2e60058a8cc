//! How much the model's predictions mind what is lost of each direction of what its blocks make.
//!
//! An error e of what a block makes at one token changes what the model predicts by ½·eᵀ·E[g·gᵀ]·e, in nats of KL
//! divergence and to second order: g is the gradient of the negative log-likelihood of a next token that the model
//! itself has drawn (Fisher's information; Martens, arXiv 1412.1193, section 5). A pass of gradients sums g·gᵀ over a
//! part of the calibration, of each block by itself. What leaves a layer is chosen by
//!
//! ```text
//!     M = ½·F / tr F + ½·I/D,     F = Σ g·gᵀ  [D, D]
//! ```
//!
//! half alike, as a few thousand tokens do not tell all directions, and errors of several layers add up to larger ones.
//! What is fitted to what stays does not depend on M, but on where tokens are: an error as large as a share of what is
//! there does far more at the first token of a sequence, which many models attend to for want of anything better, than
//! at the usual one. In the fit, and so in what leaves too, the square of a token's error counts
//!
//! ```text
//!     w = E[‖g‖²·ms(y)] / E'[‖g‖²·ms(y)],     between 1 and 100
//! ```
//!
//! E the mean over tokens whose place in their sequences is of the same kind ([`crate::model::place`]), E' that over
//! all but the first ones, y the residual after the step.

use std::fs;

use faer::Mat;

use super::job::Job;
use crate::{
    checkpoint::OutputDirectory,
    error::{Error, Result},
    fit::{Metric, weighting},
    gpu::Gpu,
    model::{Config, Model, PLACES, Step, StepGradients, Wanted, row_bytes},
    ops::{COVARIANCE_RUN, short_seed, transposed_columns},
    progress::Progress,
    stream::{
        Checksum, Collect, Extent, Gradients, GradientsAt, MemoryPlan, Peak, Sitting, gradients_peak, residual_bytes,
    },
};

/// The gradients of more tokens are not needed to tell directions apart.
const TOKENS: usize = 4096;
/// The most that a token counts, as few are seen of the first ones.
const MOST: f64 = 100.0;
/// Tells the draws of next tokens from those of calibration sequences, which have the same seed.
const DRAWS: u32 = 0x5e4b;

/// Where the sums of a model lie, beside an output, their checksums, and how much tokens count.
#[derive(Clone)]
pub struct Sensitivities<'a> {
    directory: &'a OutputDirectory,
    hidden_size: usize,
    steps: usize,
    /// By step of the model; 0 where nothing was summed.
    checksums: Vec<u64>,
    /// By step, and by place: all the same where nothing was summed.
    places: Vec<[f32; PLACES]>,
}

/// How many of this many tokens are gone through, or a few more.
pub(super) fn sensed_tokens(tokens: usize) -> usize {
    tokens.min(TOKENS)
}

/// What it takes, as [`crate::compress::peak`] has it, before anything is written of the output.
pub fn sensing_peak(
    memory: &MemoryPlan,
    config: &Config,
    calibration: &Extent,
    rope: u64,
    element_size: usize,
) -> Peak {
    let Extent { tokens, longest } = *calibration;
    let part = Extent { tokens: tokens.min(TOKENS + longest), longest };
    let full = row_bytes(config.hidden_size);
    let square = config.hidden_size as u64 * full;
    // The sums of a step and of a batch, what these are added from, and the sums of a block beside it.
    let tokens = memory.batch_tokens(&part);
    let run = transposed_columns(tokens.min(COVARIANCE_RUN as u64) as usize) as u64;
    let peak = gradients_peak(memory, config, (&part, tokens), rope, element_size, |_| 4 * square + run * full);
    // As they come from the GPU, those of the upper triangle, and as they are written.
    Peak {
        host: peak.host + 3 * square,
        disk: peak.disk + residual_bytes(config, &part) + sensed_bytes(config),
        ..peak
    }
}

/// Bytes of the sums of all steps beside the output.
pub fn sensed_bytes(config: &Config) -> u64 {
    config.points() as u64 * (4 * (PLACES + config.hidden_size * (config.hidden_size + 1) / 2)) as u64
}

/// A model, the sequences that it is sensed on, and where what resuming needs lies.
pub struct Sensing<'a> {
    pub model: &'a Model,
    pub rows: &'a [Vec<u32>],
    pub memory: MemoryPlan,
    pub directory: &'a OutputDirectory,
    pub progress: &'a dyn Progress,
}

impl<'a> Sensing<'a> {
    pub(super) fn of(job: &Job<'a>) -> Self {
        let Job { model, rows, memory, directory, progress, .. } = *job;
        Self { model, rows, memory, directory, progress }
    }

    /// The first sequences that have a next token, of about this many tokens.
    pub fn first(&self, tokens: usize) -> Vec<Vec<u32>> {
        let mut seen = 0;
        let first = self.rows.iter().filter(|row| row.len() > 1).take_while(|row| {
            let before = seen;
            seen += row.len();
            before < tokens
        });
        first.cloned().collect()
    }

    /// Sums the gradients of next tokens drawn by this seed, or resumes; `None` if it was stopped.
    ///
    /// # Errors
    /// Those of [`Gradients::sit`]; as [`Sensitivities::restore`].
    pub fn run(&self, gpu: &Gpu, seed: u64, sitting: &mut Sitting) -> Result<Option<Sensitivities<'a>>> {
        let rows = self.first(TOKENS);
        let gradients = Gradients {
            gpu,
            model: self.model,
            rows: &rows,
            memory: self.memory,
            directory: self.directory,
            progress: self.progress,
            apart: false,
            change: None,
            drawn: Some(short_seed(seed).wrapping_add(DRAWS)),
            training: None,
        };
        let config = self.model.config();
        let mut summing =
            Summing { gpu, sensitivities: Sensitivities::new(config, self.directory, vec![0; config.points()]) };
        if gradients.sit(sitting, &mut summing)?.is_none() {
            return Ok(None);
        }
        Sensitivities::restore(config, self.directory, summing.sensitivities.checksums).map(Some)
    }
}

impl<'a> Sensitivities<'a> {
    fn new(config: &Config, directory: &'a OutputDirectory, checksums: Vec<u64>) -> Self {
        let (hidden_size, steps, places) =
            (config.hidden_size, config.steps().len(), vec![[1.0; PLACES]; checksums.len()]);
        Self { directory, hidden_size, steps, checksums, places }
    }

    /// Those that were summed before.
    ///
    /// # Errors
    /// [`Error::BadFile`] if one is damaged; [`Error::Read`].
    pub fn restore(config: &Config, directory: &'a OutputDirectory, checksums: Vec<u64>) -> Result<Self> {
        let mut found = Self::new(config, directory, checksums);
        for number in 0..found.places.len() {
            let values = found.values(number)?;
            if let Some(places) = values.as_ref().and_then(|values| values.first_chunk()) {
                found.places[number] = *places;
            }
        }
        Ok(found)
    }

    /// What telling that they are whole needs.
    pub fn checksums(&self) -> &[u64] {
        &self.checksums
    }

    fn number(&self, layer: usize, step: Step) -> usize {
        layer * self.steps + step.index
    }

    /// How much tokens count by their places, and then the rows of the upper triangle of a step's sums, if it has
    /// these, one after the other; `None` if nothing was summed.
    fn values(&self, number: usize) -> Result<Option<Vec<f32>>> {
        let width = self.hidden_size;
        let Some(&expected) = self.checksums.get(number).filter(|checksum| **checksum != 0) else { return Ok(None) };
        let path = self.directory.beside(&name(number));
        let bytes = fs::read(&path).map_err(Error::kept(&path, Error::read(&path)))?;
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes[..bytes.len() / 4 * 4]);
        if checksum(&values) != expected || ![PLACES, PLACES + width * (width + 1) / 2].contains(&values.len()) {
            return Err(Error::bad_file(&path, "not what was written there; --force starts over"));
        }
        Ok(Some(values))
    }

    /// M of what a step of a layer makes; `None` if its gradients were not summed.
    ///
    /// # Errors
    /// [`Error::BadFile`] if they are damaged; [`Error::Read`].
    pub fn matrix(&self, layer: usize, step: Step) -> Result<Option<Mat<f64>>> {
        let width = self.hidden_size;
        let Some(values) = self.values(self.number(layer, step))?.filter(|values| values.len() > PLACES) else {
            return Ok(None);
        };
        let at = |i: usize, j: usize| f64::from(values[PLACES + i * width - i * (i + 1) / 2 + j]);
        let sums = Mat::from_fn(width, width, |i, j| at(i.min(j), i.max(j)));
        Ok(Some(weighting(sums.as_ref())))
    }

    /// How much the square of a token's error counts by its place, in a fit of what a step of a layer makes; all the
    /// same where nothing is known of it.
    pub fn places(known: Option<&Self>, layer: usize, step: Step) -> [f32; PLACES] {
        let of_step = known.and_then(|found| found.places.get(found.number(layer, step)));
        of_step.copied().unwrap_or([1.0; PLACES])
    }

    /// M as selections take it, in the coordinates that `back` `[hidden_size, width]`, row-major, carries back
    /// where the stream is narrower.
    ///
    /// # Errors
    /// As [`Sensitivities::matrix`]; [`Error::Numerical`].
    pub fn metric(&self, layer: usize, step: Step, back: Option<&[f32]>) -> Result<Option<Metric>> {
        let Some(m) = self.matrix(layer, step)? else { return Ok(None) };
        let m = if let Some(back) = back { narrowed(&m, back) } else { m };
        Metric::new(m.as_ref()).map(Some)
    }
}

/// Bᵀ·M·B, for B `[D, width]`, row-major.
fn narrowed(m: &Mat<f64>, back: &[f32]) -> Mat<f64> {
    let kept = back.len() / m.nrows();
    let back = Mat::from_fn(m.nrows(), kept, |i, j| f64::from(back[i * kept + j]));
    back.transpose() * m * &back
}

/// With a number, as all that methods keep beside an output.
fn name(number: usize) -> String {
    format!("sensitivity.{number}")
}

/// Never 0.
fn checksum(values: &[f32]) -> u64 {
    let mut checksum = Checksum::default();
    checksum.add(values);
    checksum.value().max(1)
}

/// What tokens count, of what the gradients say.
fn bounded(relative: [f64; PLACES]) -> [f32; PLACES] {
    relative.map(|relative| relative.clamp(1.0, MOST) as f32)
}

struct Summing<'g, 'a> {
    gpu: &'g Gpu,
    sensitivities: Sensitivities<'a>,
}

impl Collect for Summing<'_, '_> {
    fn wanted(&self) -> Wanted {
        Wanted::RESULTS
    }

    fn step(&mut self, at: GradientsAt, gradients: &StepGradients) -> Result<()> {
        let width = self.sensitivities.hidden_size;
        let mut values: Vec<f32> = bounded(gradients.places.relative()).into();
        // Blocks beside one another have the same.
        if let Some(sums) = gradients.blocks.iter().find_map(|block| block.result.as_ref()) {
            let sums = self.gpu.download(sums)?;
            values.extend((0..width).flat_map(|row| &sums[row * width + row..(row + 1) * width]));
        }
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            let reason = format!("layer {}: a sum of products of gradients is {value}", at.layer);
            return Err(Error::Numerical(reason));
        }
        let number = self.sensitivities.number(at.layer, at.step);
        self.sensitivities.directory.write_beside(&name(number), bytemuck::cast_slice(&values))?;
        self.sensitivities.checksums[number] = checksum(&values);
        Ok(())
    }

    fn found(&self) -> Vec<f64> {
        let halves = |checksum: &u64| [checksum >> 32, checksum & 0xffff_ffff].map(|half| half as f64);
        self.sensitivities.checksums.iter().flat_map(halves).collect()
    }

    fn restore(&mut self, found: &[f64]) -> Result<()> {
        if found.len() != 2 * self.sensitivities.checksums.len() {
            return Err(Error::shape("sensitivity", "what was found of other steps"));
        }
        self.sensitivities.checksums =
            found.chunks_exact(2).map(|halves| (halves[0] as u64) << 32 | halves[1] as u64).collect();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_token_counts_less_than_the_usual_one_or_a_hundred_times_more() {
        assert_eq!(bounded([5488.7, 100.5, 99.5, 1.25, 0.5, 1.0]), [100.0, 100.0, 99.5, 1.25, 1.0, 1.0]);
    }

    #[test]
    fn what_is_lost_in_a_narrower_stream_counts_as_where_it_is_carried_back_to() {
        let m = Mat::from_fn(3, 3, |i, j| [[2.0, 0.5, 0.0], [0.5, 1.0, -0.25], [0.0, -0.25, 4.0]][i][j]);
        let back = [0.5f32, 1.0, -1.0, 0.25, 2.0, 3.0];
        let (lost, small) = ([3.0, -2.0], narrowed(&m, &back));
        let carried: Vec<f64> = back.chunks(2).map(|row| row[0] as f64 * lost[0] + row[1] as f64 * lost[1]).collect();
        let energy = |m: &Mat<f64>, e: &[f64]| {
            (0..e.len())
                .flat_map(|i| (0..e.len()).map(move |j| (i, j)))
                .map(|(i, j)| e[i] * m[(i, j)] * e[j])
                .sum::<f64>()
        };
        assert_eq!(small.nrows(), 2);
        assert!((energy(&small, &lost) - energy(&m, &carried)).abs() < 1e-9);
    }
}
