//! Recordings for people, documents and spreadsheets. A row without a valid result has no figure in any of them.

use super::{
    ratios::Ratio,
    recording::{AdapterRun, Recording},
    row::{Clock, Row},
};

/// Three digits, as many as a measurement deserves.
pub fn significant(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value if value >= 0.1 => format!("{value:.2}"),
        value => format!("{value:.2e}"),
    }
}

/// Cells in columns.
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|&heading| heading.to_owned()).collect()] }
    }

    pub fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    fn width(&self, column: usize) -> usize {
        self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    }

    /// In columns of spaces.
    pub fn text(&self) -> String {
        let widths: Vec<usize> = (0..self.rows[0].len()).map(|column| self.width(column)).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
        };
        self.rows.iter().map(line).collect()
    }

    /// As a table of Markdown.
    pub fn markdown(&self) -> String {
        let line = |row: &Vec<String>| {
            format!("| {} |\n", row.iter().map(|cell| cell.replace('|', "\\|")).collect::<Vec<_>>().join(" | "))
        };
        let rule = format!("|{}\n", "---|".repeat(self.rows[0].len()));
        line(&self.rows[0]) + &rule + &self.rows[1..].iter().map(line).collect::<String>()
    }
}

/// Cells of a row: workload, rate, spread, samples, clock, percent of the peak, remark.
fn cells(row: &Row) -> Vec<String> {
    let clock = match row.clock {
        Clock::GpuTimestamps => "GPU",
        Clock::WallClock => "wall",
    };
    match row.figures {
        Some(figures) => vec![
            row.name.clone(),
            format!("{} {}", significant(figures.rate), row.unit.name()),
            format!("± {:.1} %", 100.0 * figures.spread),
            row.samples.len().to_string(),
            clock.into(),
            figures.percent_of_peak.map_or("-".into(), |percent| format!("{percent:.0} %")),
            row.flags().join(", "),
        ],
        None => {
            let reason = format!("INVALID: {}", row.complaint().unwrap_or_default());
            [row.name.as_str(), "-", "-", "-", "-", "-", &reason].map(str::to_owned).to_vec()
        }
    }
}

const HEADINGS: &[&str] = &["workload", "median", "spread", "n", "clock", "of peak", "remark"];

fn rows(run: &AdapterRun) -> Table {
    let mut table = Table::new(HEADINGS);
    run.rows.iter().for_each(|row| table.push(cells(row)));
    table
}

fn ratios(ratios: &[Ratio]) -> Table {
    let mut table = Table::new(&["ratio", "value", "goal", "reached", "how"]);
    for ratio in ratios {
        let number = |value: f64| if ratio.unit == "%" { format!("{value:.0} %") } else { format!("{value:.2}x") };
        let reached = match ratio.met() {
            Some(true) => "yes",
            Some(false) => "no",
            None => "",
        };
        let most = if ratio.at_most { "at most " } else { "" };
        let goal = ratio.target.map_or(String::new(), |target| format!("{most}{}", number(target)));
        table.push(vec![ratio.what.clone(), number(ratio.value), goal, reached.into(), ratio.detail.clone()]);
    }
    table
}

/// What makes figures comparable, as (name, value).
fn circumstances(recording: &Recording, run: &AdapterRun) -> Vec<(&'static str, String)> {
    let (tool, machine, adapter) = (&recording.tool, &recording.machine, &run.adapter);
    let list = |names: Vec<String>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    vec![
        ("adapter", adapter.name.clone()),
        ("vendor", adapter.vendor.clone()),
        (
            "type",
            if adapter.software {
                format!("{}: SOFTWARE, not a GPU", adapter.device_type)
            } else {
                adapter.device_type.clone()
            },
        ),
        ("backend", adapter.backend.clone()),
        ("driver", adapter.driver.clone()),
        ("limits", list(adapter.limits.iter().map(|(name, limit)| format!("{name} {limit}")).collect())),
        ("features", list(adapter.features.clone())),
        (
            "kernels",
            list(
                run.configurations.iter().map(|(kernel, configuration)| format!("{kernel}: {configuration}")).collect(),
            ),
        ),
        ("CPU", format!("{}, {} cores", machine.cpu.as_deref().unwrap_or("unknown"), machine.cores)),
        (
            "RAM",
            machine.ram_bytes.map_or("unknown".into(), |bytes| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))),
        ),
        ("OS", format!("{}, {}", machine.os, machine.arch)),
        (
            "tool",
            format!(
                "slicegpt-gpu {} ({}), wgpu {}, {} build",
                tool.version, tool.git_hash, tool.wgpu_version, tool.profile
            ),
        ),
    ]
}

/// Tables for people.
pub fn text(recording: &Recording) -> String {
    let mut text = String::new();
    for run in &recording.adapters {
        for (name, value) in circumstances(recording, run) {
            text.push_str(&format!("{name:<9} {value}\n"));
        }
        text.push('\n');
        text.push_str(&rows(run).text());
        if !run.ratios.is_empty() {
            text.push('\n');
            text.push_str(&ratios(&run.ratios).text());
        }
        text.push('\n');
    }
    text
}

/// Tables for documents.
pub fn markdown(recording: &Recording) -> String {
    let mut text = String::new();
    for run in &recording.adapters {
        let software = if run.adapter.software { " (software, not a GPU)" } else { "" };
        text.push_str(&format!("### {}{software}\n\n", run.adapter.name));
        for (name, value) in circumstances(recording, run).into_iter().filter(|(name, _)| *name != "adapter") {
            text.push_str(&format!("- {name}: {value}\n"));
        }
        text.push('\n');
        text.push_str(&rows(run).markdown());
        if !run.ratios.is_empty() {
            text.push('\n');
            text.push_str(&ratios(&run.ratios).markdown());
        }
        text.push('\n');
    }
    text
}

/// One line a row, the circumstances in every one.
pub fn csv(recording: &Recording) -> String {
    let mut text = String::new();
    for run in &recording.adapters {
        let circumstances = circumstances(recording, run);
        if text.is_empty() {
            let own = [
                "workload",
                "valid",
                "rate",
                "unit",
                "median_seconds",
                "spread",
                "n",
                "clock",
                "percent_of_peak",
                "unstable",
                "throttling",
            ];
            let mut headings: Vec<&str> = own.to_vec();
            headings.extend(["software", "sizes", "samples_seconds", "check_error", "check_tolerance", "remark"]);
            headings.extend(circumstances.iter().map(|(name, _)| *name));
            line(&mut text, headings.into_iter().map(str::to_owned));
        }
        for row in &run.rows {
            let figure = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
            let figures = row.figures;
            let flag = |raised: Option<bool>| raised.map_or(String::new(), |raised| raised.to_string());
            let mut fields = vec![
                row.name.clone(),
                row.valid.to_string(),
                figure(figures.map(|figures| figures.rate)),
                row.unit.name().into(),
                figure(figures.map(|figures| figures.median_seconds)),
                figure(figures.map(|figures| figures.spread)),
                figures.map_or(String::new(), |_| row.samples.len().to_string()),
                match row.clock {
                    Clock::GpuTimestamps => "gpu-timestamps".into(),
                    Clock::WallClock => "wall-clock".into(),
                },
                figure(figures.and_then(|figures| figures.percent_of_peak)),
                flag(figures.map(|figures| figures.unstable)),
                flag(figures.map(|figures| figures.throttling)),
                run.adapter.software.to_string(),
                row.sizes.iter().map(|(name, size)| format!("{name}={size}")).collect::<Vec<_>>().join(" "),
                if row.valid {
                    row.samples.iter().map(f64::to_string).collect::<Vec<_>>().join(" ")
                } else {
                    String::new()
                },
                figure(row.check.as_ref().and_then(|check| check.error)),
                figure(row.check.as_ref().map(|check| check.tolerance)),
                row.complaint().unwrap_or_default(),
            ];
            fields.extend(circumstances.iter().map(|(_, value)| value.clone()));
            line(&mut text, fields.into_iter());
        }
    }
    text
}

/// Fields in quotes where they need them (RFC 4180).
fn line(text: &mut String, fields: impl Iterator<Item = String>) {
    let quoted = |field: String| {
        if field.contains([',', '"', '\n', '\r']) { format!("\"{}\"", field.replace('"', "\"\"")) } else { field }
    };
    text.push_str(&fields.map(quoted).collect::<Vec<_>>().join(","));
    text.push('\n');
}
