//! Two recordings side by side, row by row.

use super::{
    format::{Table, significant},
    recording::{AdapterRun, Recording},
    row::Row,
};
use crate::error::{Error, Result};

/// One row of two recordings.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    pub name: String,
    /// Rates, where there is a result.
    pub a: Option<f64>,
    pub b: Option<f64>,
    pub unit: &'static str,
    /// How many times faster B is; only where both did the same.
    pub ratio: Option<f64>,
    /// Why there is no ratio, or why it should be taken with care.
    pub remark: String,
}

/// The rows of A and those of only B, by name.
pub fn compare(a: &AdapterRun, b: &AdapterRun) -> Vec<Comparison> {
    let find = |run: &AdapterRun, name: &str| run.rows.iter().position(|row| row.name == name);
    let of_a = a.rows.iter().map(|row| pair(Some(row), find(b, &row.name).map(|index| &b.rows[index])));
    let of_b = b.rows.iter().filter(|row| find(a, &row.name).is_none()).map(|row| pair(None, Some(row)));
    of_a.chain(of_b).collect()
}

fn pair(a: Option<&Row>, b: Option<&Row>) -> Comparison {
    let rate = |row: Option<&Row>| row.and_then(|row| row.figures).map(|figures| figures.rate);
    let any = a.or(b);
    let (mut ratio, mut remarks) = (None, Vec::new());
    match (a, b) {
        (Some(_), None) => remarks.push("only in A".to_owned()),
        (None, _) => remarks.push("only in B".to_owned()),
        (Some(row_a), Some(row_b))
            if row_a.sizes != row_b.sizes || row_a.work != row_b.work || row_a.unit != row_b.unit =>
        {
            remarks.push("other sizes or another unit: not comparable".into());
        }
        (Some(row_a), Some(row_b)) => {
            for (which, row) in [("A", row_a), ("B", row_b)] {
                if !row.valid {
                    remarks.push(format!("invalid in {which}"));
                }
                remarks.extend(row.flags().into_iter().map(|flag| format!("{flag} in {which}")));
            }
            if row_a.clock != row_b.clock {
                remarks.push("other clocks".into());
            }
            ratio = rate(a).zip(rate(b)).map(|(a, b)| b / a);
        }
    }
    Comparison {
        name: any.map(|row| row.name.clone()).unwrap_or_default(),
        a: rate(a),
        b: rate(b),
        unit: any.map_or("", |row| row.unit.name()),
        ratio,
        remark: remarks.join(", "),
    }
}

/// Which adapters of two recordings to hold against each other: the only ones, else those of one name.
///
/// # Errors
/// [`Error::Usage`] if none of several adapters is in both.
fn pairs<'a>(a: &'a Recording, b: &'a Recording) -> Result<Vec<(&'a AdapterRun, &'a AdapterRun)>> {
    if let ([a], [b]) = (a.adapters.as_slice(), b.adapters.as_slice()) {
        return Ok(vec![(a, b)]);
    }
    let twin = |run: &AdapterRun| b.adapters.iter().find(|other| other.adapter.name == run.adapter.name);
    let pairs: Vec<_> = a.adapters.iter().filter_map(|run| Some((run, twin(run)?))).collect();
    if pairs.is_empty() {
        let names = |recording: &Recording| {
            recording.adapters.iter().map(|run| run.adapter.name.clone()).collect::<Vec<_>>().join(", ")
        };
        return Err(Error::Usage(format!("the files have no adapter in common: {} and {}", names(a), names(b))));
    }
    Ok(pairs)
}

/// The comparison for people: what differs in the circumstances, then a table for each pair of adapters.
///
/// # Errors
/// [`Error::Usage`] if the recordings have several adapters and none in common.
pub fn comparison(a: &Recording, b: &Recording) -> Result<String> {
    let mut text = String::new();
    let circumstances = [
        (
            "tool",
            format!("{} ({})", a.tool.version, a.tool.git_hash),
            format!("{} ({})", b.tool.version, b.tool.git_hash),
        ),
        ("wgpu", a.tool.wgpu_version.clone(), b.tool.wgpu_version.clone()),
        ("build", a.tool.profile.clone(), b.tool.profile.clone()),
        ("OS", a.machine.os.clone(), b.machine.os.clone()),
        (
            "CPU",
            format!("{:?}, {} cores", a.machine.cpu, a.machine.cores),
            format!("{:?}, {} cores", b.machine.cpu, b.machine.cores),
        ),
    ];
    differences(&mut text, &circumstances);
    for (a, b) in pairs(a, b)? {
        let label = |run: &AdapterRun| {
            format!("{}{}", run.adapter.name, if run.adapter.software { " (SOFTWARE, not a GPU)" } else { "" })
        };
        text.push_str(&format!("A: {}\nB: {}\n", label(a), label(b)));
        let (x, y) = (&a.adapter, &b.adapter);
        differences(
            &mut text,
            &[
                ("adapter", x.name.clone(), y.name.clone()),
                ("backend", x.backend.clone(), y.backend.clone()),
                ("driver", x.driver.clone(), y.driver.clone()),
            ],
        );
        let mut table = Table::new(&["workload", "A", "B", "unit", "B / A", "remark"]);
        for row in compare(a, b) {
            let rate = |rate: Option<f64>| rate.map_or("-".to_owned(), significant);
            let ratio = row.ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}x"));
            table.push(vec![row.name, rate(row.a), rate(row.b), row.unit.into(), ratio, row.remark]);
        }
        text.push_str(&table.text());
        text.push('\n');
    }
    Ok(text)
}

fn differences(text: &mut String, pairs: &[(&str, String, String)]) {
    for (what, a, b) in pairs.iter().filter(|(_, a, b)| a != b) {
        text.push_str(&format!("note: the {what} differs: {a} in A, {b} in B\n"));
    }
}
