//! One row: what was measured, the samples, the check; and the figures that follow from them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::statistics::{UNSTABLE, median, spread, throttles};

/// The unit of a workload's rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    #[serde(rename = "GFLOP/s")]
    Gflops,
    #[serde(rename = "GB/s")]
    Gbytes,
    #[serde(rename = "tokens/s")]
    Tokens,
    #[serde(rename = "solves/s")]
    Solves,
}

impl Unit {
    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gflops => "GFLOP/s",
            Self::Gbytes => "GB/s",
            Self::Tokens => "tokens/s",
            Self::Solves => "solves/s",
        }
    }
}

/// Which probe bounds a workload: the row is a percentage of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// `probe/fma`.
    Compute,
    /// `probe/copy`.
    Bandwidth,
    /// Neither: it runs on the CPU, or on both.
    Nothing,
}

/// What one execution costs, by the formula and not by what a kernel happens to do.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// Floating-point operations, a multiply-add being two.
    pub flops: f64,
    /// Bytes that must be read or written at least once.
    pub bytes: f64,
    /// Tokens, or solves.
    pub items: f64,
}

/// Where the time of a sample comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clock {
    /// Timestamps of the GPU, from the start of the first dispatch to the end of the last.
    GpuTimestamps,
    /// The clock of the CPU, from an idle GPU to an idle GPU.
    WallClock,
}

/// A comparison of the very kernel on the very adapter with f64 on the CPU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What was compared, and how the error is scaled.
    pub what: String,
    /// How many values were compared.
    pub values: u64,
    /// The largest scaled error; `None` if it is no number.
    pub error: Option<f64>,
    pub tolerance: f64,
}

impl Check {
    /// Whether the results are right.
    pub fn passed(&self) -> bool {
        self.error.is_some_and(|error| error <= self.tolerance)
    }
}

/// One workload on one adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub name: String,
    pub what: String,
    pub sizes: BTreeMap<String, u64>,
    pub unit: Unit,
    pub bound: Bound,
    pub work: Work,
    /// What the kernel ran in, where the workload was to find that out.
    pub configuration: Option<String>,
    pub clock: Clock,
    /// Executions that one sample is the mean of: short ones are timed together.
    pub executions_per_sample: u32,
    /// Seconds of one execution, in the order of measuring. Empty where the check failed: a wrong result has no speed.
    pub samples: Vec<f64>,
    pub check: Option<Check>,
    /// Why nothing was measured.
    pub problem: Option<String>,
    /// Whether the row is a result. What follows from the rest is written for readers, and worked out again when a file
    /// is read.
    #[serde(skip_deserializing)]
    pub valid: bool,
    #[serde(skip_deserializing)]
    pub figures: Option<Figures>,
}

/// What follows from the samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figures {
    /// In [`Row::unit`], of the median.
    pub rate: f64,
    pub median_seconds: f64,
    /// Half the distance between the quartiles, as a share of the median.
    pub spread: f64,
    pub percent_of_peak: Option<f64>,
    /// The spread exceeds 5 %.
    pub unstable: bool,
    /// The last third is slower than the first by more than 5 %.
    pub throttling: bool,
}

/// The median rates of the probes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Peaks {
    /// FLOP/s.
    pub compute: Option<f64>,
    /// Bytes/s.
    pub bandwidth: Option<f64>,
}

impl Peaks {
    /// Of the probes among these rows.
    pub fn of(rows: &[Row]) -> Self {
        let rate = |name: &str, amount: fn(&Work) -> f64| {
            rows.iter()
                .find(|row| row.name == name && row.is_valid())
                .map(|row| amount(&row.work) / median(&row.samples))
        };
        Self { compute: rate("probe/fma", |work| work.flops), bandwidth: rate("probe/copy", |work| work.bytes) }
    }
}

impl Row {
    /// A row of which nothing is known yet.
    pub fn new(name: &str, what: &str) -> Self {
        Self {
            name: name.into(),
            what: what.into(),
            sizes: BTreeMap::new(),
            unit: Unit::Gflops,
            bound: Bound::Nothing,
            work: Work { flops: 0.0, bytes: 0.0, items: 0.0 },
            configuration: None,
            clock: Clock::WallClock,
            executions_per_sample: 1,
            samples: Vec::new(),
            check: None,
            problem: None,
            valid: false,
            figures: None,
        }
    }

    fn is_valid(&self) -> bool {
        self.problem.is_none() && !self.samples.is_empty() && self.check.as_ref().is_some_and(Check::passed)
    }

    /// Works out what follows from the samples, given the probes.
    pub fn derive(&mut self, peaks: Peaks) {
        self.valid = self.is_valid();
        self.figures = self.valid.then(|| {
            let seconds = median(&self.samples);
            let spread = spread(&self.samples);
            let percent = |amount: f64, peak: Option<f64>| peak.map(|peak| 100.0 * amount / seconds / peak);
            Figures {
                rate: match self.unit {
                    Unit::Gflops => self.work.flops / seconds / 1e9,
                    Unit::Gbytes => self.work.bytes / seconds / 1e9,
                    Unit::Tokens | Unit::Solves => self.work.items / seconds,
                },
                median_seconds: seconds,
                spread,
                percent_of_peak: match self.bound {
                    Bound::Compute => percent(self.work.flops, peaks.compute),
                    Bound::Bandwidth => percent(self.work.bytes, peaks.bandwidth),
                    Bound::Nothing => None,
                },
                unstable: spread > UNSTABLE,
                throttling: throttles(&self.samples),
            }
        });
    }

    /// Why there is no result, if there is none.
    pub fn complaint(&self) -> Option<String> {
        match (&self.problem, &self.check) {
            _ if self.valid => None,
            (Some(problem), _) => Some(problem.clone()),
            (None, Some(check)) if !check.passed() => Some(match check.error {
                Some(error) => {
                    format!("wrong results: error {error:.1e}, allowed {:.1e} ({})", check.tolerance, check.what)
                }
                None => format!("wrong results: values that are no numbers ({})", check.what),
            }),
            (None, _) => Some("not measured".into()),
        }
    }

    /// What a reader should know of a valid series.
    pub fn flags(&self) -> Vec<&'static str> {
        let flags = self.figures.map(|figures| [(figures.unstable, "unstable"), (figures.throttling, "throttling")]);
        flags.into_iter().flatten().filter(|(raised, _)| *raised).map(|(_, flag)| flag).collect()
    }
}
