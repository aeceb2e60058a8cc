//! What compression says of its result.

use std::fmt::Write;

use serde::Serialize;

use super::{
    super::{
        method::{Row, Section},
        recovering::RecoverReport,
        sizes::{Removed, Sizes, loading},
        units::{bytes, grouped, percent_changed, percent_removed},
    },
    chart,
};
use crate::{
    checkpoint::GgufType,
    compress::{Axis, Candidate, Curve, Plan, Probe, Snapshot},
    model::{Config, GgufExport, Kept, LayerSizes, LayerSpec, Model},
};

/// The fields of a report that compression writes.
#[derive(Debug, Clone, Serialize)]
pub struct CompressReport {
    #[serde(skip)]
    model_type: &'static str,
    /// Whether the original has a form for llama.cpp.
    #[serde(skip)]
    exportable: bool,
    pub before: Sizes,
    /// By the curves of other models, before the work.
    pub after: Sizes,
    /// 1 − after / before of the parameters, in percent.
    pub percent_removed: f64,
    /// The sizes of each layer that stays, where they differ.
    pub by_layer: Option<Vec<LayerSizes>>,
    /// How much of each axis was cut: the share that left.
    pub cut: Vec<AxisCut>,
    /// What was measured of each axis alone, and the curve through it.
    pub curves: Vec<Curve>,
    /// The q of what axes cost together, (Σ KLᵠ)^(1/q).
    pub together: f64,
    pub probes: Vec<Probe>,
    /// What was fitted on part of the tokens, the best of which was written; empty before.
    pub candidates: Vec<Tried>,
    /// One object for every layer of the original, cut or not: what was removed.
    pub removed: Vec<Removed>,
    /// The tensors of the original with as few bits for a weight take as many bytes.
    pub same_size_bits: Option<f64>,
    /// What training the result has shown, where it was trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RecoverReport>,
}

/// One axis.
#[derive(Debug, Clone, Serialize)]
pub struct AxisCut {
    pub axis: Axis,
    /// The share that left.
    pub depth: f64,
    /// What its curve says that this costs, in nats.
    pub predicted_kl: Option<f64>,
}

/// A candidate, without the lists of what it keeps.
#[derive(Debug, Clone, Serialize)]
pub struct Tried {
    pub depths: Vec<(Axis, f64)>,
    pub parameters: u64,
    /// Whether its layers differ in size.
    pub by_layer: bool,
    pub predicted_kl: f64,
    /// On tokens that nothing is fitted to; `None` of the only candidate.
    pub kl: Option<f64>,
    pub written: bool,
}

fn removed(config: &Config, written: Option<(&Candidate, &[Kept])>) -> Vec<Removed> {
    let Some((best, kept)) = written else { return Vec::new() };
    let of = |(layer, spec): (usize, &LayerSpec)| {
        if !best.sizes.layers.contains(&layer) {
            return Removed { layer, whole: true, ..Removed::default() };
        }
        let whole = || Kept::all(layer, spec);
        Removed::of(spec, &kept.iter().find(|kept| kept.layer == layer).cloned().unwrap_or_else(whole))
    };
    config.layers.iter().enumerate().map(of).collect()
}

impl CompressReport {
    /// What is planned, and what came of it, as far as it is known.
    pub(super) fn new(model: &Model, axes: &[Axis], plan: &Plan, found: Option<&Snapshot>) -> Self {
        let config = model.config();
        let parameters = model.stored_parameters();
        let (written, curves) = (found.and_then(Snapshot::written), found.map(|found| &found.curves));
        let sizes = written.map_or(&plan.sizes, |(best, _)| &best.sizes);
        let cut = |&axis: &Axis| {
            let depth = axis.depth(config, sizes);
            let curve = curves.and_then(|curves| curves.of(axis));
            AxisCut { axis, depth, predicted_kl: curve.map(|curve| curve.at(depth)) }
        };
        let tried = |candidate: &Candidate| Tried {
            depths: candidate.depths.clone(),
            parameters: candidate.parameters,
            by_layer: candidate.sizes.by_layer.is_some(),
            predicted_kl: candidate.predicted,
            kl: candidate.agreement.map(|agreement| agreement.kl),
            written: written.is_some_and(|(best, _)| std::ptr::eq(best, candidate)),
        };
        let after = Sizes::of(&plan.config, plan.byte_len(), plan.parameters, plan.stored_width);
        Self {
            model_type: config.architecture.model_type,
            exportable: GgufExport::check(config, GgufType::default()).is_ok(),
            before: Sizes {
                vocabulary: model.whole_vocabulary().unwrap_or(config.vocab_size),
                ..Sizes::of(config, model.store.checkpoint.stored_len(), parameters, config.hidden_size)
            },
            percent_removed: percent_removed(parameters, plan.parameters),
            by_layer: written.and_then(|(best, _)| best.sizes.by_layer.clone()),
            cut: axes.iter().map(cut).collect(),
            curves: curves.map_or_else(Vec::new, |curves| curves.axes.clone()),
            together: curves.map_or(1.0, |curves| curves.together),
            probes: found.map_or_else(Vec::new, |found| found.probes.clone()),
            candidates: found.map_or_else(Vec::new, |found| found.candidates.iter().map(tried).collect()),
            removed: removed(config, written),
            same_size_bits: (parameters > 0).then(|| 8.0 * after.bytes as f64 / parameters as f64),
            recovery: None,
            after,
        }
    }

    /// The same of a result that is trained.
    #[must_use]
    pub(super) fn with(self, recovery: Option<RecoverReport>) -> Self {
        Self { recovery, ..self }
    }
}

impl Section for CompressReport {
    fn rows(&self) -> Vec<Row> {
        let (before, after) = (&self.before, &self.after);
        let row = |what: &str, before: u64, after: u64, shown: fn(u64) -> String| {
            let change = format!("{:+.2} %", percent_changed(before, after));
            [what.into(), shown(before), shown(after), change]
        };
        let size =
            |what: &str, before: usize, after: usize| row(what, before as u64, after as u64, |size| size.to_string());
        let names = match self.by_layer {
            Some(_) => ["query heads, the mean", "key-value heads, the mean", "MLP channels, the mean"],
            None => ["query heads", "key-value heads", "MLP channels"],
        };
        let mut rows = vec![
            row("parameters", before.parameters, after.parameters, grouped),
            row("bytes", before.bytes, after.bytes, bytes),
            size("width", before.hidden_size, after.hidden_size),
            size("layers", before.layers, after.layers),
            size(names[0], before.query_heads, after.query_heads),
            size(names[1], before.key_value_heads, after.key_value_heads),
            size(names[2], before.intermediate_size, after.intermediate_size),
            size("experts of all layers", before.experts.unwrap_or(0), after.experts.unwrap_or(0)),
            size("tokens", before.vocabulary, after.vocabulary),
            size("cache bytes a token", before.cache_bytes_per_token, after.cache_bytes_per_token),
        ];
        // What stayed as it was need not be said, but for the first two.
        let mut number = 0;
        rows.retain(|row| {
            number += 1;
            number <= 2 || row[1] != row[2]
        });
        rows.extend(self.recovery.iter().flat_map(Section::rows));
        rows
    }

    fn findings(&self) -> String {
        let mut text = String::new();
        for AxisCut { axis, depth, predicted_kl } in &self.cut {
            let curve = self.curves.iter().find(|curve| curve.axis == *axis);
            let name = format!("cut of {axis}");
            let cost = match (curve, predicted_kl) {
                (Some(Curve { coefficient, exponent, .. }), Some(kl)) if *depth > 0.0 => {
                    format!(", KL {kl:.4} by {coefficient:.3}·x^{exponent:.2}")
                }
                (Some(Curve { coefficient, exponent, .. }), _) => {
                    format!(", for KL {coefficient:.3}·x^{exponent:.2} costs more than the others")
                }
                _ => String::new(),
            };
            let _ = writeln!(text, "{name:<24} {:.1} %{cost}", 100.0 * depth);
        }
        if (self.together - 1.0).abs() >= 0.005 {
            let _ = writeln!(text, "{:<24} KL (Σ KL^{q:.2})^(1/{q:.2})", "several together", q = self.together);
        }
        let layers = self.by_layer.iter().flatten();
        let list = |of: fn(&LayerSizes) -> usize| layers.clone().map(|layer| of(layer).to_string()).collect::<Vec<_>>();
        let sizes = [
            ("query heads by layer", list(|layer| layer.num_attention_heads)),
            ("key-value heads by layer", list(|layer| layer.num_key_value_heads)),
            ("MLP channels by layer", list(|layer| layer.intermediate_size)),
        ];
        for (name, list) in sizes.iter().filter(|(_, list)| list.iter().any(|size| *size != list[0])) {
            let _ = writeln!(text, "{name:<24} {}", list.join(", "));
        }
        let cut = self.candidates.iter().filter(|tried| !tried.depths.is_empty());
        for (number, tried) in cut.enumerate() {
            let depths: Vec<String> =
                tried.depths.iter().map(|(axis, depth)| format!("{axis} {:.1} %", 100.0 * depth)).collect();
            let written = if tried.written { ", written" } else { "" };
            let name = format!("candidate {}", number + 1);
            let kl = tried.kl.map_or_else(String::new, |kl| format!("KL {kl:.4}, "));
            let by_layer = if tried.by_layer { ", spread over the layers" } else { "" };
            let (depths, predicted) = (depths.join(", ") + by_layer, tried.predicted_kl);
            let _ = writeln!(text, "{name:<24} {depths}: {kl}predicted {predicted:.4}{written}");
        }
        text.extend(self.recovery.iter().map(Section::findings));
        text
    }

    fn advice(&self) -> String {
        let Some(bits) = self.same_size_bits.filter(|_| !self.candidates.is_empty()) else { return String::new() };
        let size = bytes(self.after.bytes);
        let quantised = bytes((self.before.parameters as f64 * Q8_0_BITS / 8.0) as u64);
        let rest = if bits >= Q8_0_BITS {
            "smaller, and nearly lossless: a cut pays below that, with both together"
        } else {
            "larger: both together are smaller still"
        };
        let command = if self.exportable { " (export --format gguf --type q8_0)" } else { "" };
        format!(
            "{size} are the original in {bits:.1} bits a weight; quantised to 8 bits alone{command} it takes \
             {quantised}, {rest}\n"
        )
    }

    fn tag(&self) -> &'static str {
        "compressed"
    }

    fn sizes(&self) -> Vec<(&'static str, usize)> {
        let Sizes { hidden_size, layers, query_heads, key_value_heads, intermediate_size, experts, .. } = self.after;
        let sizes = [
            ("width", hidden_size),
            ("layers", layers),
            ("query_heads", query_heads),
            ("key_value_heads", key_value_heads),
            ("intermediate_size", intermediate_size),
        ];
        sizes.into_iter().chain(experts.map(|experts| ("experts", experts))).collect()
    }

    fn introduction(&self, original: &str, version: &str) -> String {
        let cut = self.cut.iter().filter(|cut| cut.depth > 0.0).map(|cut| cut.axis.to_string());
        let words = (self.after.vocabulary < self.before.vocabulary).then(|| "the vocabulary".to_owned());
        let cut: Vec<String> = cut.chain(words).collect();
        format!(
            "# {original}, smaller\n\nThis is {original} ({}) with {:.1} % fewer parameters. slicegpt-gpu {version} \
             measured what each axis costs to cut, cut {}, and fitted the weights to the original by least \
             squares.{}\n\n",
            self.model_type,
            self.percent_removed,
            cut.join(", "),
            self.recovery.as_ref().map_or_else(String::new, |recovery| format!(" Then: {}.", recovery.training()))
        )
    }

    fn card_findings(&self) -> String {
        let name = chart::NAME;
        format!(
            "\n\n![What each axis costs to cut: KL divergence from the original by the share that \
             leaves]({name})\n\nEach \
             axis alone, on part of the calibration; the line is what was cut.{}",
            self.recovery.as_ref().map_or_else(String::new, Section::card_findings)
        )
    }

    fn drawings(&self) -> Vec<(&'static str, String)> {
        let cut: Vec<_> = self.cut.iter().map(|cut| (cut.axis, cut.depth)).collect();
        let curves = (chart::NAME, chart::draw(&self.curves, &cut));
        [curves].into_iter().chain(self.recovery.iter().flat_map(Section::drawings)).collect()
    }

    fn loading(&self) -> &'static str {
        loading(self.by_layer.is_some())
    }
}

/// Bits of a weight in q8_0: 8, and a 16-bit factor for each 32.
const Q8_0_BITS: f64 = 8.5;
