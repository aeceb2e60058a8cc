//! Sampling with a KV cache: text for people, and sequences for calibration.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

use crate::{
    error::{Error, Result},
    gpu::{Gpu, Matrix},
    model::{Batch, Ends, LayerCache, LayerContext, LayerSpec, LayerWeights, Model, NoExpertTap, forward},
    ops::{RowCopy, SampleOptions, Sequence, short_seed},
    progress::Progress,
};

/// A model with all its layers but experts on the GPU, and the keys and values of the tokens that its sequences have so
/// far.
pub struct Session<'a> {
    gpu: &'a Gpu,
    model: &'a Model,
    weights: &'a Resident,
    caches: Vec<LayerCache>,
    sequences: usize,
    capacity: usize,
    length: usize,
}

/// All weights of a model on the GPU, but those of experts, which come as tokens go to them.
pub struct Resident {
    layers: Vec<LayerWeights>,
    ends: Ends,
    rope_tables: Vec<Matrix>,
}

impl Resident {
    /// Uploads a model for sequences of up to `capacity` tokens.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::BadTensor`].
    pub fn upload(gpu: &Gpu, model: &Model, capacity: usize) -> Result<Self> {
        Ok(Self {
            layers: (0..model.config().layers.len()).map(|layer| model.layer(gpu, layer)).collect::<Result<_>>()?,
            ends: model.ends(gpu)?,
            rope_tables: model.rope_tables(gpu, capacity)?,
        })
    }
}

impl<'a> Session<'a> {
    /// Starts `sequences` empty sequences of equal length, up to `capacity` tokens each.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn new(
        gpu: &'a Gpu,
        model: &'a Model,
        weights: &'a Resident,
        sequences: usize,
        capacity: usize,
    ) -> Result<Self> {
        let layers = &model.config().layers;
        let widest = layers.iter().map(|layer| kept_bytes(layer, capacity)).max().unwrap_or(0);
        let (needed, most) = ((sequences * widest) as u64, gpu.max_binding_size());
        if needed > most {
            return Err(Error::OutOfMemory(format!(
                "the keys and values of {sequences} sequences of {capacity} tokens take {needed} bytes a layer, one \
                 binding of {} holds {most}; \
                 fewer new tokens need less, and --calibration FILE (or a lower --cal-max-seqlen) none",
                gpu.adapter().name
            )));
        }
        let cache = |layer: &LayerSpec| LayerCache::new(gpu, layer, sequences, capacity);
        let caches = layers.iter().map(cache).collect::<Result<_>>()?;
        Ok(Self { gpu, model, weights, caches, sequences, capacity, length: 0 })
    }

    /// Runs `tokens` more of each sequence (sequence 0's, then sequence 1's, …) and returns the residual of each one's
    /// last.
    ///
    /// # Errors
    /// [`Error::Shape`] if the capacity is exceeded; [`Error::OutOfMemory`].
    pub fn step(&mut self, ids: Matrix, tokens: usize) -> Result<Matrix> {
        if ids.cols() != self.sequences * tokens || self.length + tokens > self.capacity {
            return Err(Error::shape(
                "step",
                format!("{} ids for {} sequences at {} of {}", ids.cols(), self.sequences, self.length, self.capacity),
            ));
        }
        let rows = self.model.config().table_rows(self.length..self.length + tokens);
        let positions: Vec<u32> = (0..self.sequences).flat_map(|_| rows.clone()).collect();
        let sequences = (0..self.sequences)
            .map(|index| Sequence {
                first: index * tokens,
                tokens,
                kv_row: index * self.capacity,
                position: self.length,
            })
            .collect();
        let batch =
            Batch { ids, positions: self.gpu.upload_u32(&positions)?, sequences, tokens: self.sequences * tokens };
        let mut x = self.weights.ends.embed(self.gpu, &batch)?;
        for (layer, (weights, cache)) in self.weights.layers.iter().zip(&self.caches).enumerate() {
            let tables = &self.weights.rope_tables;
            let context =
                LayerContext { cache: Some(cache), ..batch.context(self.gpu, self.model.config(), layer, tables) };
            forward(self.gpu, self.model, weights, &mut [(context, &mut x)], &mut NoExpertTap, || Ok(()))?;
        }
        self.length += tokens;
        if tokens == 1 {
            return Ok(x);
        }
        let last = self.gpu.zeros(self.sequences, x.cols())?;
        let rows: Vec<(usize, usize)> = (0..self.sequences).map(|index| (index * tokens + tokens - 1, index)).collect();
        self.gpu.copy_rows(&x, &last, &rows, RowCopy::whole(x.cols()))?;
        Ok(last)
    }

    /// Forgets the tokens that there are if their keys would be others with `tokens` more of each sequence, as where
    /// longer texts turn by other angles; returns whether it did: they are then to be run again.
    pub fn restart_before(&mut self, tokens: usize) -> bool {
        let first = |length: usize| self.model.config().first_table_row(length);
        let restarts = self.length > 0 && first(self.length) != first(self.length + tokens);
        if restarts {
            self.length = 0;
        }
        restarts
    }

    /// Draws the next token of each sequence from its last residual, on the GPU; the ids stay there.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn sample(&self, x: &Matrix, options: &SampleOptions) -> Result<Matrix> {
        let (best, ids) = self.gpu.sample_state(self.sequences)?;
        self.weights.ends.logits(self.gpu, self.model.config(), x, |first, logits| {
            self.gpu.sample(logits, first, options, &best, &ids)
        })?;
        Ok(ids)
    }

    /// The logits of the only sequence's next token.
    ///
    /// # Errors
    /// Whatever the readback reports.
    pub fn logits(&self, x: &Matrix) -> Result<Vec<f32>> {
        let mut all = Vec::with_capacity(self.model.config().vocab_size);
        self.weights.ends.logits(self.gpu, self.model.config(), x, |_, logits| {
            all.extend(self.gpu.download(logits)?);
            Ok(())
        })?;
        Ok(all)
    }
}

/// Bytes of a sequence of this many tokens in the cache of a layer.
fn kept_bytes(layer: &LayerSpec, tokens: usize) -> usize {
    let (each, token) = layer.cache_bytes();
    each + tokens * token
}

/// Bytes of a sequence of this many tokens in the caches of all layers.
fn sequence_bytes(model: &Model, tokens: usize) -> usize {
    model.config().layers.iter().map(|layer| kept_bytes(layer, tokens)).sum()
}

/// How text is sampled.
#[derive(Debug, Clone, Copy)]
pub struct Sampling {
    /// 0 takes the likeliest token always.
    pub temperature: f64,
    /// Only the likeliest tokens whose probabilities add up to this are drawn from.
    pub top_p: f64,
    pub seed: u64,
}

/// Continues `prompt` by up to `max_new_tokens` tokens and passes each to `each`, which returns false to stop there.
/// Also stops at any of the tokens `eos`, and where the model's positions end.
///
/// # Errors
/// [`Error::BadTokens`] if the prompt is empty or fills the model's positions; whatever the GPU reports.
pub fn generate(
    gpu: &Gpu,
    model: &Model,
    prompt: &[u32],
    eos: &[u32],
    max_new_tokens: usize,
    sampling: &Sampling,
    mut each: impl FnMut(u32) -> Result<bool>,
) -> Result<usize> {
    let config = model.config();
    let room = config.max_position_embeddings.saturating_sub(prompt.len());
    if prompt.is_empty() || room == 0 {
        return Err(Error::BadTokens(format!(
            "a prompt of {} tokens for a model with {} positions",
            prompt.len(),
            config.max_position_embeddings
        )));
    }
    let count = max_new_tokens.min(room);
    let capacity = prompt.len() + count;
    let weights = Resident::upload(gpu, model, capacity)?;
    let mut session = Session::new(gpu, model, &weights, 1, capacity)?;
    let mut rng = ChaCha8Rng::seed_from_u64(sampling.seed);
    let mut next = prompt.to_vec();
    let mut all = next.clone();
    for made in 0..count {
        if session.restart_before(next.len()) {
            next.clone_from(&all);
        }
        let x = session.step(gpu.upload_u32(&next)?, next.len())?;
        let token = draw(&session.logits(&x)?, sampling, &mut rng)?;
        if eos.contains(&token) || !each(token)? {
            return Ok(made);
        }
        next = vec![token];
        all.push(token);
    }
    Ok(count)
}

/// How many tokens a model reads, and writes, in a second.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Pace {
    /// Of a sequence that is there.
    pub prefill_tokens_per_second: f64,
    /// One after the other, of one sequence.
    pub decode_tokens_per_second: f64,
}

/// Tokens that are made to tell how fast that is.
pub const PACED_STEPS: usize = 16;
/// How often a sequence is taken in to tell how fast that is, and for how long at most.
const PREFILLS: usize = 5;
const PREFILL_SECONDS: f64 = 2.0;

impl Pace {
    /// Takes in `prompt`, a few times, and makes [`PACED_STEPS`] tokens after it; medians. What is uploaded and
    /// compiled first does not count.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if not all weights are on the GPU at once; [`Error::Shape`] of an empty prompt.
    pub fn measure(gpu: &Gpu, model: &Model, prompt: &[u32]) -> Result<Self> {
        let capacity = prompt.len() + PACED_STEPS + 1;
        let weights = Resident::upload(gpu, model, capacity)?;
        let timed = |session: &mut Session, ids: &[u32]| {
            let began = std::time::Instant::now();
            let x = session.step(gpu.upload_u32(ids)?, ids.len())?;
            let logits = session.logits(&x)?;
            let seconds = began.elapsed().as_secs_f64();
            let likeliest = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
            Ok::<_, Error>((seconds, likeliest.unwrap_or(0) as u32))
        };
        let (mut prefill, mut decode) = (Vec::new(), Vec::new());
        let began = std::time::Instant::now();
        for round in 0..=PREFILLS {
            let mut session = Session::new(gpu, model, &weights, 1, capacity)?;
            let (seconds, mut token) = timed(&mut session, prompt)?;
            // The first one compiles kernels.
            if round > 0 {
                prefill.push(seconds);
            }
            let last = round == PREFILLS || (round > 0 && began.elapsed().as_secs_f64() > PREFILL_SECONDS);
            if last {
                token = timed(&mut session, &[token])?.1;
                for _ in 0..PACED_STEPS {
                    let (seconds, next) = timed(&mut session, &[token])?;
                    decode.push(seconds);
                    token = next;
                }
                break;
            }
        }
        let per_second = |tokens: usize, seconds: &mut Vec<f64>| {
            seconds.sort_by(f64::total_cmp);
            tokens as f64 / seconds[seconds.len() / 2].max(f64::MIN_POSITIVE)
        };
        Ok(Self {
            prefill_tokens_per_second: per_second(prompt.len(), &mut prefill),
            decode_tokens_per_second: per_second(1, &mut decode),
        })
    }
}

/// Draws from `softmax(logits / temperature)`, restricted to its likeliest part.
fn draw(logits: &[f32], sampling: &Sampling, rng: &mut ChaCha8Rng) -> Result<u32> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    let top = f64::from(logits[order[0]]);
    if !top.is_finite() {
        return Err(Error::Numerical(format!("the largest logit is {top}: the model's signals overflow")));
    }
    if sampling.temperature == 0.0 {
        return Ok(order[0] as u32);
    }
    let weights: Vec<f64> =
        order.iter().map(|&id| ((f64::from(logits[id]) - top) / sampling.temperature).exp()).collect();
    let total: f64 = weights.iter().sum();
    let mut kept = 0.0;
    let count = 1 + weights
        .iter()
        .take_while(|&&weight| {
            kept += weight / total;
            kept < sampling.top_p
        })
        .count();
    let pool = &weights[..count.min(weights.len())];
    let uniform = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    let mut left = uniform * pool.iter().sum::<f64>();
    let chosen = pool.iter().position(|weight| {
        left -= weight;
        left < 0.0
    });
    Ok(order[chosen.unwrap_or(0)] as u32)
}

/// Keys and values of the sequences sampled together take at most this many bytes.
const CACHE_BYTES: usize = 1 << 30;
/// After this many tokens the time that is left can be estimated.
const PROBE_STEPS: usize = 16;
/// Longer than this is worth a word.
const PATIENCE: f64 = 60.0;

/// About how many bytes of GPU memory [`sample_sequences`] takes: all weights, and the keys and values of the sequences
/// sampled together.
pub fn sampling_bytes(model: &Model, count: usize, length: usize) -> u64 {
    let sequence = sequence_bytes(model, length);
    // Experts come and go.
    let (config, element) = (model.config(), model.store.element_size() as u64);
    let experts = |layer: usize| {
        config.layer_parameters(layer) - config.resident_parameters(layer).min(config.layer_parameters(layer))
    };
    let away: u64 = (0..config.layers.len()).map(experts).sum();
    model.store.checkpoint.byte_len().saturating_sub(away * element)
        + (count * sequence).min(CACHE_BYTES.max(sequence)) as u64
}

/// Sequences that a model writes itself.
#[derive(Debug, Clone)]
pub struct Samples {
    /// The tokens that each begins with, at least one.
    pub starts: Vec<Vec<u32>>,
    /// Tokens of each, those included.
    pub length: usize,
    pub seed: u64,
}

/// Samples sequences from the model itself at temperature 1: text that it was trained on, where there is no other. An
/// EOS token does not end a sequence: models are trained on concatenated documents.
///
/// # Errors
/// [`Error::Shape`] if a sequence begins with nothing; [`Error::OutOfMemory`]; [`Error::Interrupted`].
pub fn sample_sequences(
    gpu: &Gpu,
    model: &Model,
    samples: Samples,
    rows_per_batch: Option<usize>,
    progress: &dyn Progress,
) -> Result<Vec<Vec<u32>>> {
    let config = model.config();
    let Samples { starts, length, seed } = samples;
    let count = starts.len();
    if starts.iter().any(Vec::is_empty) {
        return Err(Error::shape("sample", "a sequence that begins with nothing"));
    }
    progress.begin("sample", (count * length) as u64);
    let by_memory = CACHE_BYTES / sequence_bytes(model, length).max(1);
    let widest = config.layers.iter().map(|layer| kept_bytes(layer, length)).max().unwrap_or(1);
    let by_binding = gpu.max_binding_size() as usize / widest.max(1);
    let together = rows_per_batch.unwrap_or(by_memory).min(by_binding).clamp(1, count.max(1));
    let weights = Resident::upload(gpu, model, length)?;
    let mut rows: Vec<Vec<u32>> = Vec::new();
    let began = std::time::Instant::now();
    let mut announced = false;
    while rows.len() < count {
        let sequences = together.min(count - rows.len());
        let mut session = Session::new(gpu, model, &weights, sequences, length)?;
        let starts = &starts[rows.len()..rows.len() + sequences];
        let mut ids = gpu.upload_u32(&starts.iter().map(|start| start[0]).collect::<Vec<_>>())?;
        let mut drawn = vec![ids.clone()];
        for step in 1..length {
            let x = match session.restart_before(1) {
                true => session.step(side_by_side(gpu, &drawn)?, drawn.len())?,
                false => session.step(ids, 1)?,
            };
            let options = SampleOptions { seed: short_seed(seed), step, first_row: rows.len(), temperature: 1.0 };
            ids = session.sample(&x, &options)?;
            if starts.iter().any(|start| step < start.len()) {
                let mut given = gpu.download_u32(&ids)?;
                let begun = given.iter_mut().zip(starts);
                begun.for_each(|(id, start)| *id = start.get(step).copied().unwrap_or(*id));
                ids = gpu.upload_u32(&given)?;
            }
            drawn.push(ids.clone());
            progress.advance(sequences as u64)?;
            if step == PROBE_STEPS && !announced {
                announced = true;
                gpu.finish()?;
                let seconds = began.elapsed().as_secs_f64() / PROBE_STEPS as f64
                    * length as f64
                    * count.div_ceil(together) as f64;
                if seconds > PATIENCE {
                    progress.note(&format!(
                        "sampling {count} calibration sequences of {length} tokens from the model itself will take \
                         about {:.0} minutes; \
                         --calibration FILE (with --self-samples 0) avoids it, a lower --cal-nsamples, --self-samples or \
                         --cal-max-seqlen shortens it",
                        (seconds / 60.0).ceil()
                    ));
                }
            }
        }
        let columns = drawn.iter().map(|ids| gpu.download_u32(ids)).collect::<Result<Vec<_>>>()?;
        rows.extend((0..sequences).map(|row| columns.iter().map(|column| column[row]).collect()));
    }
    Ok(rows)
}

/// The tokens of each sequence one after the other, from those of each step.
fn side_by_side(gpu: &Gpu, drawn: &[Matrix]) -> Result<Matrix> {
    let columns = drawn.iter().map(|ids| gpu.download_u32(ids)).collect::<Result<Vec<_>>>()?;
    let sequences = 0..columns.first().map_or(0, Vec::len);
    gpu.upload_u32(&sequences.flat_map(|row| columns.iter().map(move |column| column[row])).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each of four tokens with these probabilities is drawn, of 4000.
    fn draws(temperature: f64, top_p: f64) -> [usize; 4] {
        let logits = [0.1f32, 0.5, 0.15, 0.25].map(f32::ln);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut counts = [0; 4];
        for _ in 0..4000 {
            if let Ok(token) = draw(&logits, &Sampling { temperature, top_p, seed: 1 }, &mut rng) {
                counts[token as usize] += 1;
            }
        }
        counts
    }

    /// Within five standard deviations of what is expected.
    fn check(counts: [usize; 4], expected: [f64; 4]) {
        for (count, share) in counts.into_iter().zip(expected) {
            let spread = (4000.0 * share * (1.0 - share)).sqrt();
            assert!((count as f64 - 4000.0 * share).abs() <= 5.0 * spread, "{counts:?}, expected {expected:?}");
        }
    }

    #[test]
    fn draws_follow_the_softmax_of_logits_over_temperature() {
        check(draws(1.0, 1.0), [0.1, 0.5, 0.15, 0.25]);
        // At half the temperature, probabilities go as their squares.
        check(draws(0.5, 1.0), [0.01, 0.25, 0.0225, 0.0625].map(|square| square / 0.345));
        assert_eq!(draws(0.0, 1.0), [0, 4000, 0, 0]);
    }

    #[test]
    fn top_p_draws_from_the_smallest_set_of_likeliest_tokens_that_reaches_it() {
        assert_eq!(draws(1.0, 0.4), [0, 4000, 0, 0]);
        check(draws(1.0, 0.6), [0.0, 2.0 / 3.0, 0.0, 1.0 / 3.0]);
        check(draws(1.0, 0.8), [0.0, 0.5 / 0.9, 0.15 / 0.9, 0.25 / 0.9]);
    }

    #[test]
    fn logits_that_are_no_numbers_are_an_error() {
        let sampling = Sampling { temperature: 1.0, top_p: 1.0, seed: 1 };
        assert!(draw(&[0.0, f32::NAN], &sampling, &mut ChaCha8Rng::seed_from_u64(1)).is_err());
    }
}
