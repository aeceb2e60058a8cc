//! Which heads and channels of a step are to go, and what goes with them.

use std::ops::Range;

use crate::{
    error::Result,
    gpu::{Gpu, Matrix},
    linalg::Group,
    model::{Kept, LayerSpec, Linear, Step, StepWeights, architecture::Role},
    ops::RowCopy,
};

impl Kept {
    /// Leaves those that `rows` has of a layer that has become of sizes `spec`, whose step has these `writes`.
    pub fn choose(&mut self, rows: &Rows, spec: &LayerSpec, writes: &[Linear]) {
        let of = |before: &[usize], kept: &[usize]| kept.iter().map(|&at| before[at]).collect();
        let numbers = |rows: &[usize]| -> Vec<usize> {
            rows.iter().step_by(spec.head_dim).map(|row| row / spec.head_dim).collect()
        };
        if writes.iter().any(|linear| linear.role == Role::Output) {
            self.query_heads = of(&self.query_heads, &numbers(&rows.query));
            self.key_value_heads = of(&self.key_value_heads, &numbers(&rows.key));
        }
        if writes.iter().any(|linear| linear.role == Role::Down) {
            self.mlp_channels = of(&self.mlp_channels, &rows.channel);
        }
    }
}

/// What is left so far of a layer of sizes `spec`, among what is of others.
pub fn record<'k>(kept: &'k mut Vec<Kept>, layer: usize, spec: &LayerSpec) -> &'k mut Kept {
    let at = kept.iter().position(|kept| kept.layer == layer).unwrap_or(kept.len());
    if at == kept.len() {
        kept.push(Kept::all(layer, spec));
    }
    &mut kept[at]
}

/// What leaves together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A key-value head with its queries.
    KvHead,
    /// A query of every key-value head.
    Query,
    /// A channel of the MLP.
    Channel,
}

/// How many groups of one kind leave.
#[derive(Debug, Clone, Copy)]
pub struct Quota {
    pub unit: Unit,
    pub leave: usize,
    /// Of how many.
    pub there: usize,
}

/// The sizes that a selection leaves.
pub struct Cut {
    heads: usize,
    kv_heads: usize,
    /// MLP channels that leave.
    channels: usize,
}

impl Cut {
    /// What is to leave a step of a layer of sizes `whole` for `left`, one selection after the other: whole groups of
    /// heads before queries of those that stay.
    pub fn of_step(whole: &LayerSpec, left: &LayerSpec, step: Step) -> Vec<Self> {
        let (attention, queries) = (step.has_attention(), whole.heads / whole.kv_heads);
        let channels = if step.has_mlp() { whole.intermediate_size - left.intermediate_size } else { 0 };
        let mut cuts = Vec::new();
        if attention && whole.kv_heads != left.kv_heads {
            cuts.push(Self { heads: queries * left.kv_heads, kv_heads: left.kv_heads, channels });
        }
        let within = attention && queries != left.heads / left.kv_heads;
        if within || (cuts.is_empty() && channels > 0) {
            let channels = if cuts.is_empty() { channels } else { 0 };
            cuts.push(Self { heads: left.heads, kv_heads: left.kv_heads, channels });
        }
        cuts
    }

    /// Whether nothing is to leave a step.
    pub fn leaves_whole(whole: &LayerSpec, left: &LayerSpec, step: Step) -> bool {
        let experts = !step.is_mixture() || whole.experts == left.experts;
        experts && Self::of_step(whole, left, step).is_empty()
    }

    /// The groups of columns of the writes, side by side, and how many of each kind leave a layer of sizes `spec`.
    pub fn groups(&self, spec: &LayerSpec, writes: &[Linear]) -> (Vec<Group>, Vec<Quota>) {
        let queries = spec.heads / spec.kv_heads;
        let (mut groups, mut quotas, mut start) = (Vec::new(), Vec::new(), 0);
        for linear in writes {
            let first = quotas.len();
            // The width of a group, how many share a kind, and how many of them leave.
            let (unit, width, together, leave) = match linear.role {
                Role::Output if self.kv_heads < spec.kv_heads => {
                    (Unit::KvHead, queries * spec.head_dim, spec.kv_heads, spec.kv_heads - self.kv_heads)
                }
                Role::Output => (Unit::Query, spec.head_dim, queries, queries - self.heads / self.kv_heads),
                _ => (Unit::Channel, 1, spec.intermediate_size, self.channels),
            };
            let count = linear.weight.cols() / width;
            for number in 0..count {
                let columns = start + number * width..start + (number + 1) * width;
                groups.push(Group { columns, kind: first + number / together });
            }
            quotas.resize(first + count.div_ceil(together), Quota { unit, leave, there: together });
            start += linear.weight.cols();
        }
        (groups, quotas)
    }
}

/// Rows of the reads that stay.
pub struct Rows {
    pub query: Vec<usize>,
    pub key: Vec<usize>,
    pub channel: Vec<usize>,
}

impl Rows {
    /// Those that go with the columns of the `writes`, side by side, that are `kept` of a layer of sizes `spec`: all of
    /// what the step does not write.
    pub fn of_columns(spec: &LayerSpec, writes: &[Linear], kept: &[Range<usize>]) -> Self {
        let mut query: Vec<usize> = (0..spec.heads_width()).collect();
        let mut channel: Vec<usize> = (0..spec.intermediate_size).collect();
        let mut start = 0;
        for linear in writes {
            let end = start + linear.weight.cols();
            let columns = kept.iter().filter(|columns| (start..end).contains(&columns.start));
            let columns = columns.flat_map(|columns| columns.start - start..columns.end - start).collect();
            *(if linear.role == Role::Output { &mut query } else { &mut channel }) = columns;
            start = end;
        }
        let (width, group) = (spec.head_dim, spec.head_dim * spec.heads / spec.kv_heads);
        let mut groups: Vec<usize> = query.iter().step_by(width).map(|row| row / group).collect();
        groups.dedup();
        let key = groups.iter().flat_map(|group| group * width..(group + 1) * width).collect();
        Self { query, key, channel }
    }

    /// Those of a weight that reads, or the columns of one that writes.
    pub fn of(&self, role: Role) -> &[usize] {
        match role {
            Role::Query | Role::Output | Role::OutputGate => &self.query,
            Role::Key | Role::Value => &self.key,
            Role::Gate | Role::Up | Role::Down => &self.channel,
            // Of mixtures, whole experts leave; gated delta nets are left alone.
            Role::Router | Role::Mixed | Role::Beta | Role::Decay => &[],
        }
    }

    /// Makes the sizes of a layer those of what stays.
    pub fn resize(&self, spec: &mut LayerSpec) {
        spec.heads = self.query.len() / spec.head_dim;
        spec.kv_heads = self.key.len() / spec.head_dim;
        spec.intermediate_size = self.channel.len();
    }
}

/// Some rows of a weight, and of its bias.
///
/// # Errors
/// [`crate::Error::OutOfMemory`]; whatever the readback reports.
pub fn pick(gpu: &Gpu, linear: &Linear, rows: &[usize]) -> Result<Linear> {
    let weight: &Matrix = &linear.weight;
    let picked = gpu.unfilled(rows.len(), weight.cols())?;
    let pairs: Vec<(usize, usize)> = rows.iter().copied().zip(0..).collect();
    gpu.copy_rows(weight, &picked, &pairs, RowCopy::whole(weight.cols()))?;
    let bias = match &linear.bias {
        Some(bias) => {
            let all = gpu.download(bias)?;
            let values: Vec<f32> = rows.iter().map(|&row| all[row]).collect();
            Some(gpu.upload(&values, 1, values.len())?)
        }
        None => None,
    };
    Ok(Linear { spec: linear.spec, role: linear.role, weight: picked, bias })
}

/// Some columns of a weight that writes the residual stream.
///
/// # Errors
/// As [`pick`].
fn pick_columns(gpu: &Gpu, linear: &Linear, columns: &[usize]) -> Result<Linear> {
    let cols = linear.weight.cols();
    let all = gpu.download(&linear.weight)?;
    let picked: Vec<f32> = all.chunks_exact(cols).flat_map(|row| columns.iter().map(|&col| row[col])).collect();
    let weight = gpu.upload(&picked, linear.weight.rows(), columns.len())?;
    Ok(Linear { spec: linear.spec, role: linear.role, weight, bias: linear.bias.clone() })
}

/// Leaves the `rows` of the reads of a step.
///
/// # Errors
/// As [`pick`].
pub fn pick_rows(gpu: &Gpu, rows: &Rows, reads: &mut StepWeights) -> Result<()> {
    for linear in reads.blocks.iter_mut().flat_map(|block| &mut block.linears) {
        *linear = pick(gpu, linear, rows.of(linear.role))?;
    }
    Ok(())
}

/// Leaves what is `kept` of a step, whose layer has sizes `spec`, of its reads and of its writes.
///
/// # Errors
/// As [`pick`].
pub fn pick_kept(
    gpu: &Gpu,
    kept: &Kept,
    spec: &LayerSpec,
    reads: &mut StepWeights,
    writes: &mut [Linear],
) -> Result<()> {
    for linear in reads.blocks.iter_mut().flat_map(|block| &mut block.linears) {
        *linear = pick(gpu, linear, &kept.channels(linear.role, spec))?;
    }
    for linear in writes {
        *linear = pick_columns(gpu, linear, &kept.channels(linear.role, spec))?;
    }
    Ok(())
}
