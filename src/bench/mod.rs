//! `bench`: how fast this adapter is at what slicing and running models is made of; measured, checked, and comparable
//! across machines.
//!
//! Every [`Workload`] has a fixed name and fixed sizes. A row of results comes about so: operands of reproducible
//! random values are put in place; the workload is executed once, and the results of that very kernel on that very
//! adapter are compared with an f64 computation on the CPU; if they are wrong, the row is invalid and nothing is
//! measured. Otherwise that execution was the warm-up, and three to twenty repetitions follow, each of enough
//! executions to take 5 ms at least, and in turns with the rows it is compared with below the table. What is reported
//! is their median; the *spread* is half the distance between their quartiles, as a share of the median. A spread of
//! more than 5 %, or a last third that is more than 5 % slower than the first, is flagged.
//!
//! Percentages are of two probes measured in the same call: rows bound by arithmetic of `probe/fma`, rows bound by
//! memory (decoding) of `probe/copy`. A kernel that mostly reads may exceed 100 % of the latter, which also writes.
//! Operations are counted by the formula: causal attention counts the tokens that are seen, a covariance its upper
//! triangle.
//!
//! Software adapters run the same rows on the CPU, and are labelled wherever their figures appear.

mod compare;
mod format;
mod jobs;
mod machine;
mod measure;
mod ratios;
mod recording;
mod row;
mod statistics;
mod values;
mod workload;

pub use compare::{Comparison, compare, comparison};
pub use format::{csv, markdown, significant, text};
pub use measure::Budget;
pub use ratios::Ratio;
pub use recording::{Adapter, AdapterRun, Machine, Recording, SCHEMA_VERSION, Tool, WGPU_VERSION};
pub use row::{Bound, Check, Clock, Figures, Row, Unit, Work};
pub use statistics::{median, spread, throttles};
pub use workload::{Case, Gradient, LayerSlicing, Product, WORKLOADS, When, Workload, select};

use jobs::Job;
use measure::Series;

use crate::{
    error::{Error, Result},
    gpu::Gpu,
    progress::Progress,
};

/// The workloads in groups that are measured in turns: a ratio of two rows should not depend on what else the machine
/// did during one of them.
pub fn groups(workloads: &[&'static Workload]) -> Vec<Vec<&'static Workload>> {
    let mut groups: Vec<Vec<&Workload>> = Vec::new();
    for &workload in workloads {
        match groups.iter_mut().find(|group| group.iter().any(|other| ratios::compared(workload.name, other.name))) {
            Some(group) => group.push(workload),
            None => groups.push(vec![workload]),
        }
    }
    groups
}

/// Measures workloads in turns: a repetition of the first, of the second, and so on, then again.
///
/// What concerns one workload alone, such as too little memory, stands in its row.
///
/// # Errors
/// [`Error::Interrupted`]; [`Error::DeviceLost`]; [`Error::Write`] where a workload writes files.
pub fn run(gpu: &Gpu, workloads: &[&Workload], budget: Budget, progress: &dyn Progress) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = workloads.iter().map(|workload| Row::new(workload.name, workload.what)).collect();
    let mut running = Vec::new();
    for (row, workload) in rows.iter_mut().zip(workloads) {
        let ready = begin(row, gpu, workload, progress);
        if let Some((job, series)) = concerns_one(row, ready)?.flatten() {
            running.push((row, job, series));
        }
    }
    while running.iter().any(|(_, _, series)| !series.is_done(budget)) {
        let mut index = 0;
        while index < running.len() {
            progress.advance(0)?;
            let (row, job, series) = &mut running[index];
            let sampled = if series.is_done(budget) {
                Ok(())
            } else {
                series.go_on(job.on_gpu.then_some(gpu), &mut *job.execute)
            };
            match concerns_one(row, sampled)? {
                Some(()) => index += 1,
                None => drop(running.remove(index)),
            }
        }
    }
    for (row, _, series) in running {
        (row.clock, row.executions_per_sample, row.samples) =
            (series.clock, series.executions_per_sample, series.samples);
    }
    Ok(rows)
}

/// Puts what went wrong with one workload into its row; passes on what ends everything.
fn concerns_one<T>(row: &mut Row, result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error @ (Error::Interrupted | Error::DeviceLost(_) | Error::Write { .. })) => Err(error),
        Err(error) => {
            // Texts of drivers may run over lines.
            row.problem = Some(error.to_string().split_whitespace().collect::<Vec<_>>().join(" "));
            Ok(None)
        }
    }
}

/// Makes a workload ready, checks it, and begins its series if it computes what it should.
fn begin<'a>(
    row: &mut Row,
    gpu: &'a Gpu,
    workload: &Workload,
    progress: &'a dyn Progress,
) -> Result<Option<(Job<'a>, Series)>> {
    let mut job = Job::prepare(gpu, workload, progress)?;
    row.sizes = std::mem::take(&mut job.sizes);
    (row.unit, row.bound, row.work, row.configuration) = (job.unit, job.bound, job.work, job.configuration.take());
    row.check = Some(job.check.clone());
    if !job.check.passed() {
        return Ok(None);
    }
    let series = Series::begin(job.on_gpu.then_some(gpu), &mut *job.execute)?;
    Ok(Some((job, series)))
}
