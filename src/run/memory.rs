//! What fits into the memory there is: how much of everything is worked on at a time, and where the residual lies.

use serde::{Deserialize, Serialize};
use sysinfo::{MemoryRefreshKind, System};

use super::method::Method;
use crate::{
    error::{Error, Result, too_low},
    eval::{EvalMemory, rope_bytes},
    generate::sampling_bytes,
    model::{BatchSize, Config, Model, PART_BYTES, row_bytes, staging_bytes, state_bytes},
    stream::{Extent, MemoryPlan, Placement},
};

/// How much memory may be taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Ceilings {
    pub gpu_bytes: Option<u64>,
    pub host_bytes: Option<u64>,
    /// The GPU's memory is the host's: software and integrated adapters.
    pub shared: bool,
}

/// What the sums of a run are cut into: other pieces would round otherwise, so a resumed run keeps to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pieces {
    pub batch: BatchSize,
    pub eval_tokens: usize,
    /// The most bytes of a run of rows of an embedding or head.
    pub part_bytes: u64,
}

impl Pieces {
    /// The largest that are of use.
    pub fn largest(rows_per_batch: Option<usize>) -> Self {
        let MemoryPlan { batch, part_bytes, .. } = MemoryPlan::unlimited(rows_per_batch);
        Self { batch, eval_tokens: EvalMemory::default().batch_tokens, part_bytes }
    }

    /// Half as many tokens at a time; `None` if that is too few to be of use everywhere.
    pub fn halved(self) -> Option<Self> {
        let half = |tokens: usize| (tokens / 2).max(LEAST_TOKENS).min(tokens);
        let rows = self.batch.rows.map(|rows| (rows / 2).max(1));
        let tokens = if rows.is_some() { self.batch.tokens } else { half(self.batch.tokens) };
        let smaller = Self { batch: BatchSize { tokens, rows }, eval_tokens: half(self.eval_tokens), ..self };
        (smaller != self).then_some(smaller)
    }
}

/// Fewer tokens at a time leave a GPU idle and save nothing worth it.
const LEAST_TOKENS: usize = 64;
/// Parts of tables are not made smaller than this.
const LEAST_PART: u64 = 8 << 20;
/// What the process takes without any work: code, driver, compiled kernels.
const BASE: u64 = 192 << 20;

/// The most bytes that a phase holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PhasePeak {
    pub phase: &'static str,
    pub gpu_bytes: u64,
    pub host_bytes: u64,
    pub disk_bytes: u64,
}

/// How a run keeps within its ceilings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunPlan {
    pub ceilings: Ceilings,
    /// For the work of the method.
    #[serde(rename = "slice")]
    pub layers: MemoryPlan,
    pub eval: EvalMemory,
    /// Sequences that are sampled together; by size if `None`.
    pub sampled_rows: Option<usize>,
    /// In the order of the phases.
    #[serde(skip)]
    pub peaks: Vec<PhasePeak>,
}

/// What a run has to do, as far as memory goes.
pub struct Workload<'a, M> {
    pub model: &'a Model,
    pub method: &'a M,
    /// Sequences at a time; by size if `None`.
    pub rows_per_batch: Option<usize>,
    pub calibration: Extent,
    /// What perplexity is measured on.
    pub eval: Option<Extent>,
    /// Sequences to be sampled from the model, and their length.
    pub sampling: Option<(usize, usize)>,
    /// The flags that say how many sequences, and how long they are.
    pub flags: [&'static str; 2],
}

impl<M: Method> Workload<'_, M> {
    /// The plan with the largest pieces that fit, the residual as near to the GPU as there is room, but not on it if
    /// `spare_gpu`; with `pieces`, no others.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] that says which ceiling is too low, and by how much.
    pub fn fit(&self, ceilings: Ceilings, pieces: Option<Pieces>, spare_gpu: bool) -> Result<RunPlan> {
        let first = pieces.unwrap_or_else(|| Pieces::largest(self.rows_per_batch));
        let mut candidates = vec![first];
        if pieces.is_none() {
            candidates.extend(std::iter::successors(first.halved(), |pieces| pieces.halved()));
        }
        let mut least: Option<RunPlan> = None;
        for tokens in candidates {
            for placement in [Placement::Gpu, Placement::Host, Placement::Disk].into_iter().skip(usize::from(spare_gpu))
            {
                let smaller = |part: &u64| (pieces.is_none() && *part > LEAST_PART).then_some(part / 4);
                for part_bytes in std::iter::successors(Some(tokens.part_bytes), smaller) {
                    let plan =
                        |keeps_dense| self.plan(ceilings, Pieces { part_bytes, ..tokens }, placement, keeps_dense);
                    let least_plan = plan(false);
                    if least_plan.missing(self.flags).is_none() {
                        // What only saves time takes what is left, where that is known.
                        let keeping = ceilings.host_bytes.map(|_| plan(true));
                        return Ok(keeping.filter(|plan| plan.missing(self.flags).is_none()).unwrap_or(least_plan));
                    }
                    least = Some(least_plan);
                }
            }
        }
        let reason = least.as_ref().and_then(|plan| plan.missing(self.flags));
        Err(Error::OutOfMemory(reason.unwrap_or_else(|| "nothing was tried".into())))
    }

    fn plan(&self, ceilings: Ceilings, pieces: Pieces, placement: Placement, keeps_dense: bool) -> RunPlan {
        let (config, sliced) = (self.model.config(), self.method.config());
        let element_size = self.model.store.element_size();
        let widest = self.method.tensors().iter().map(|tensor| tensor.dtype.bitsize() / 8).max().unwrap_or(4);
        let most = if ceilings.shared { ceilings.gpu_bytes.or(ceilings.host_bytes) } else { ceilings.gpu_bytes };
        let phase = |phase, gpu_bytes, upload: u64, host: u64, disk_bytes| {
            // Uploads wait in host memory; where that is the GPU's as well, they count there.
            let waiting = if ceilings.shared { 0 } else { staging_bytes(upload) };
            PhasePeak { phase, gpu_bytes, host_bytes: BASE + host + waiting, disk_bytes }
        };
        let mut peaks = Vec::new();
        let mut sampled_rows = None;
        if let Some((count, length)) = self.sampling {
            let weights = sampling_bytes(self.model, 1, length);
            let one = sampling_bytes(self.model, 2, length).saturating_sub(weights).max(1);
            let (least, whole) = (weights + one / 4, sampling_bytes(self.model, count, length));
            let room = most.map(|most| most.saturating_sub(if ceilings.shared { BASE } else { 0 }));
            let bytes = match room.filter(|&room| whole > room) {
                Some(room) => {
                    let rows = (room.saturating_sub(least) / one + 1).min(count as u64) as usize;
                    sampled_rows = Some(rows.min(self.rows_per_batch.unwrap_or(rows)));
                    least + (rows as u64 - 1) * one
                }
                None => whole,
            };
            let upload = config.largest_matrix() * element_size as u64;
            peaks.push(phase("sample", bytes + staging_bytes(upload), upload, upload, 0));
        }
        let least = EvalMemory { batch_tokens: pieces.eval_tokens, residual_bytes: 0, part_bytes: pieces.part_bytes };
        let perplexity = |config: &Config, element_size| {
            let gpu = least.gpu_bytes(config, self.eval.map_or(0, |eval| eval.longest), element_size);
            let table = (config.vocab_size as u64 * row_bytes(config.hidden_size)).min(least.part_bytes);
            let upload = (config.largest_matrix() * element_size as u64).max(table);
            phase("perplexity", gpu, upload, upload, 0)
        };
        let layers = MemoryPlan { batch: pieces.batch, placement, part_bytes: pieces.part_bytes, keeps_dense };
        let rope = rope_bytes(config, self.calibration.longest);
        let peak = self.method.peak(&layers, config, &self.calibration, rope, element_size);
        let work = phase(M::PHASE, peak.gpu, peak.upload, peak.host, peak.disk);
        let mut residual_bytes = EvalMemory::default().residual_bytes;
        if let Some(measured) = self.eval {
            residual_bytes = residual_bytes.min(measured.tokens as u64 * state_bytes(config));
            let dense = perplexity(config, element_size);
            let cut = perplexity(sliced, widest);
            let mut measured = PhasePeak {
                gpu_bytes: dense.gpu_bytes.max(cut.gpu_bytes),
                host_bytes: dense.host_bytes.max(cut.host_bytes),
                ..dense
            };
            let room = [
                ceilings.gpu_bytes.map(|most| most.saturating_sub(measured.gpu_bytes)),
                ceilings
                    .host_bytes
                    .filter(|_| ceilings.shared)
                    .map(|most| most.saturating_sub(measured.gpu_bytes + measured.host_bytes)),
            ];
            // What is left of the GPU's memory holds residuals, up to the usual amount; one batch at least is in the
            // account already.
            residual_bytes = room.into_iter().flatten().fold(residual_bytes, u64::min);
            measured.gpu_bytes += residual_bytes;
            peaks.push(measured);
        }
        peaks.push(work);
        RunPlan { ceilings, layers, eval: EvalMemory { residual_bytes, ..least }, sampled_rows, peaks }
    }
}

impl RunPlan {
    /// What this plan cuts the work into.
    pub fn pieces(&self) -> Pieces {
        Pieces { batch: self.layers.batch, eval_tokens: self.eval.batch_tokens, part_bytes: self.layers.part_bytes }
    }

    /// What the device may hold: where its memory is the host's, no more than the host can spare.
    pub fn gpu_ceiling(&self) -> Option<u64> {
        let host = self.peaks.iter().map(|peak| peak.host_bytes).max().unwrap_or(0);
        let spare = self.ceilings.host_bytes.filter(|_| self.ceilings.shared).map(|most| most.saturating_sub(host));
        self.ceilings.gpu_bytes.into_iter().chain(spare).min()
    }

    /// Which ceiling is too low, and by how much; what to do is said by the flags for the number of sequences and their
    /// length.
    fn missing(&self, [count, length]: [&str; 2]) -> Option<String> {
        let Ceilings { gpu_bytes, host_bytes, shared } = self.ceilings;
        let advice = |phase: &str| match phase {
            "sample" => format!(
                "sampling the calibration holds all weights on the GPU: raise it, give --calibration FILE, or lower \
                 {length}"
            ),
            _ => format!("raise it, or lower {length}, {count} or --ppl-eval-seqlen"),
        };
        let over = |flag: &str, phase: &str, needed: u64, most: Option<u64>| {
            most.filter(|&most| needed > most).map(|most| too_low(flag, phase, needed, most, &advice(phase)))
        };
        self.peaks.iter().find_map(|peak| {
            let host = peak.host_bytes + if shared { peak.gpu_bytes } else { 0 };
            over("--max-gpu-memory", peak.phase, peak.gpu_bytes, gpu_bytes)
                .or_else(|| over("--max-host-memory", peak.phase, host, host_bytes))
        })
    }
}

/// What the system has to spare now, less a tenth: of its memory, or of what it grants a container; `None` where it
/// does not tell.
pub fn host_available() -> Option<u64> {
    let mut system = System::new();
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    let bytes = Some(system.available_memory()).filter(|&bytes| bytes > 0)?;
    // What is only cached can be had.
    let granted = system.cgroup_limits().map_or(bytes, |limits| limits.total_memory.saturating_sub(limits.rss));
    Some(bytes.min(granted) / 10 * 9)
}

/// The most host memory that this process has held; `None` where the system does not tell.
pub fn host_peak() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

/// Bytes of a size such as `3GiB`, `500 MB` or `4294967296`.
///
/// # Errors
/// What was expected and what was found.
pub fn parse_bytes(text: &str) -> std::result::Result<u64, String> {
    let text = text.trim();
    let split = text.find(|char: char| !char.is_ascii_digit() && char != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        "k" | "kib" => (1u64 << 10) as f64,
        "m" | "mib" => (1u64 << 20) as f64,
        "g" | "gib" => (1u64 << 30) as f64,
        "t" | "tib" => (1u64 << 40) as f64,
        _ => return Err(format!("expected a size such as 3GiB or 500MB, found {text:?}")),
    };
    match number.parse::<f64>() {
        Ok(number) if number > 0.0 && number * scale < u64::MAX as f64 => Ok((number * scale) as u64),
        _ => Err(format!("expected a size such as 3GiB or 500MB, found {text:?}")),
    }
}

const _: () = assert!(LEAST_PART <= PART_BYTES);
