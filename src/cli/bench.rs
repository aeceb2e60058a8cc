//! `slicegpt-gpu bench`

use std::path::PathBuf;

use super::{
    arguments::ForceArgs,
    print::{print, print_json},
    progress::Bars,
};
use crate::{
    bench::{self, AdapterRun, Budget, Machine, Recording, SCHEMA_VERSION, Tool, WORKLOADS, Workload},
    checkpoint::{AtomicFile, FileTarget, Writes},
    error::{Error, Result},
    gpu::{self, Gpu, GpuOptions},
    ops::ProductConfig,
    progress::Progress,
    run::Log,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The quick part of the workloads, in less than a minute on a laptop's GPU
    #[arg(long)]
    quick: bool,
    /// Only workloads with this in their name, and the two probes that all are compared with; may be given several
    /// times
    #[arg(long, value_name = "SUBSTRING")]
    filter: Vec<String>,
    /// The GPU to measure: its number or a part of its name, as `slicegpt-gpu devices` lists them, or `all` in turn
    /// [default: the best]
    #[arg(long, visible_alias = "device", value_name = "all|N|NAME")]
    adapter: Option<String>,
    /// Print JSON; or write it to FILE, and print the table
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    json: Option<Option<PathBuf>>,
    #[command(flatten)]
    force: ForceArgs,
    /// Print Markdown
    #[arg(long, conflicts_with = "csv")]
    markdown: bool,
    /// Print comma-separated values
    #[arg(long)]
    csv: bool,
    /// Measure nothing: print what is in a FILE of `bench --json`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quick", "filter", "adapter", "compare", "list"])]
    show: Option<PathBuf>,
    /// Measure nothing: print how many times faster B is than A, row by row
    #[arg(long, value_names = ["A", "B"], num_args = 2, conflicts_with_all = ["quick", "filter", "adapter", "json", "markdown", "csv", "list"])]
    compare: Option<Vec<PathBuf>>,
    /// Measure nothing: print the workloads
    #[arg(long, conflicts_with_all = ["quick", "filter", "adapter", "json", "markdown", "csv"])]
    list: bool,
}

impl Args {
    pub fn execute(&self) -> Result<()> {
        if self.list {
            return print(
                &WORKLOADS
                    .iter()
                    .map(|workload| format!("{:<54} {}\n", workload.name, workload.what))
                    .collect::<String>(),
            );
        }
        if let Some([a, b]) = self.compare.as_deref() {
            return print(&bench::comparison(&Recording::read(a)?, &Recording::read(b)?)?);
        }
        // Found out before the work, which a mistyped name should not cost.
        let target = self.target()?;
        let recording = match &self.show {
            Some(path) => Recording::read(path)?,
            None => self.measure()?,
        };
        if let Some(target) = target {
            let text = serde_json::to_string_pretty(&recording).map_err(Error::internal)?;
            let mut file = AtomicFile::create(target)?;
            file.append(format!("{text}\n").as_bytes())?;
            file.finish()?;
        }
        self.print(&recording)
    }

    /// The file to write, if one is.
    fn target(&self) -> Result<Option<FileTarget>> {
        let Some(Some(path)) = &self.json else { return Ok(None) };
        let mut writes = Writes::new(self.force.force);
        self.show.iter().for_each(|path| writes.reads(path));
        writes.file("--json", path).map(Some)
    }

    fn print(&self, recording: &Recording) -> Result<()> {
        match &self.json {
            Some(None) => print_json(recording),
            _ if self.markdown => print(&bench::markdown(recording)),
            _ if self.csv => print(&bench::csv(recording)),
            _ => print(&bench::text(recording)),
        }
    }

    fn measure(&self) -> Result<Recording> {
        let progress = Bars::log();
        let wanted: Vec<Option<String>> = match self.adapter.as_deref() {
            Some("all") => gpu::adapters().iter().map(|adapter| Some(adapter.index.to_string())).collect(),
            one => vec![one.map(str::to_owned)],
        };
        if wanted.is_empty() {
            return Err(gpu::no_adapter());
        }
        let mut adapters = Vec::new();
        for adapter in wanted {
            let options = GpuOptions { adapter, ..GpuOptions::default() };
            let mut gpu = Gpu::new(&options)?;
            let software = gpu.adapter().software;
            if software {
                // Their default is known, and measuring alternatives in the middle of a series would disturb it.
                gpu.pin_products(ProductConfig::default_of(&gpu));
                progress.note(&format!(
                    "{} is a software renderer on the CPU: its figures are not a GPU's",
                    gpu.adapter().name
                ));
            } else {
                // Kernels are chosen in the warm-up, as they would be early in a real run.
                gpu = Gpu::new(&GpuOptions { measure_at_once: true, ..options })?;
            }
            adapters.push(self.rows(&gpu, &bench::select(&self.filter, self.quick, software)?, &progress)?);
        }
        progress.end();
        let (quick, filters) = (self.quick, self.filter.clone());
        Ok(Recording {
            schema_version: SCHEMA_VERSION,
            tool: Tool::this(),
            machine: Machine::this(),
            quick,
            filters,
            adapters,
        })
    }

    fn rows(&self, gpu: &Gpu, workloads: &[&'static Workload], progress: &Log) -> Result<AdapterRun> {
        progress.begin("bench", workloads.len() as u64);
        let mut run = AdapterRun {
            adapter: gpu.adapter().into(),
            configurations: Default::default(),
            rows: Vec::new(),
            ratios: Vec::new(),
        };
        for group in bench::groups(workloads) {
            for mut row in bench::run(gpu, &group, Budget::new(self.quick), progress)? {
                row.derive(Default::default());
                let result = match (row.figures, row.complaint()) {
                    (Some(figures), _) => format!("{} {}", bench::significant(figures.rate), row.unit.name()),
                    (None, complaint) => format!("INVALID: {}", complaint.unwrap_or_default()),
                };
                run.rows.push(row);
                progress.say(&format!(
                    "{:>3}/{} {}: {result}",
                    run.rows.len(),
                    workloads.len(),
                    run.rows[run.rows.len() - 1].name
                ));
            }
            progress.advance(group.len() as u64)?;
        }
        run.configurations = gpu.tuning().into_iter().collect();
        run.derive();
        Ok(run)
    }
}
