//! What pruning says of its result.

use std::fmt::Write;

use serde::Serialize;

use super::{
    super::{
        method::{Row, Section},
        sizes::{Removed, Sizes, loading},
        units::{bytes, grouped, percent_changed, percent_removed},
    },
    request::PruneRefit,
};
use crate::{
    model::{LayerSizes, Model},
    prune::{Groups, Options, Plan, Snapshot},
};

/// The fields of a report that pruning writes.
#[derive(Debug, Clone, Serialize)]
pub struct PruneReport {
    #[serde(skip)]
    model_type: &'static str,
    #[serde(skip)]
    refit: PruneRefit,
    #[serde(skip)]
    first: usize,
    #[serde(skip)]
    last: usize,
    /// Whether experts left, not heads and channels.
    #[serde(skip)]
    experts: bool,
    pub before: Sizes,
    /// If all layers lose as much, before the work.
    pub after: Sizes,
    /// 1 − after / before of the parameters, in percent.
    pub percent_removed: f64,
    /// The sizes of each layer, where they differ.
    pub by_layer: Option<Vec<LayerSizes>>,
    /// One object for every layer, cut or not: what was removed; empty before.
    pub removed: Vec<Removed>,
    /// The coordinates of the residual stream that left, where they did and once they are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removed_coordinates: Option<Vec<usize>>,
}

impl PruneReport {
    /// What is planned, and what came of it, as far as it is known.
    pub(super) fn new(
        model: &Model,
        options: &Options,
        plan: &Plan,
        refit: PruneRefit,
        found: Option<&Snapshot>,
    ) -> Self {
        let (config, smaller) = (model.config(), &plan.config);
        let parameters = config.parameters();
        let known = found.filter(|found| found.rounds == options.iterations);
        let removed = known.map_or(&[][..], |found| &found.kept);
        let (width, checkpoint) = (config.hidden_size, &model.store.checkpoint);
        // As what is left is written: widened, or as it is stored.
        let stored = if options.in_mxfp4.is_empty() { checkpoint.byte_len() } else { checkpoint.stored_len() };
        let left = known.and_then(|found| found.coordinates.as_ref());
        let gone = |left: &Vec<usize>| (0..width).filter(|number| left.binary_search(number).is_err()).collect();
        Self {
            model_type: config.architecture.model_type,
            refit,
            first: options.layers.start,
            last: options.layers.end - 1,
            experts: options.groups == Groups::Experts,
            before: Sizes::of(config, stored, parameters, width),
            after: Sizes::of(smaller, plan.byte_len(), plan.parameters, smaller.hidden_size),
            percent_removed: percent_removed(parameters, plan.parameters),
            by_layer: smaller.pruned.then(|| smaller.layers.iter().map(LayerSizes::from).collect()),
            removed: removed.iter().zip(&config.layers).map(|(kept, spec)| Removed::of(spec, kept)).collect(),
            removed_coordinates: left.map(gone),
        }
    }
}

impl Section for PruneReport {
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
            size(names[0], before.query_heads, after.query_heads),
            size(names[1], before.key_value_heads, after.key_value_heads),
            size(names[2], before.intermediate_size, after.intermediate_size),
        ];
        if before.hidden_size != after.hidden_size {
            rows.truncate(2);
            rows.push(size("width of the residual stream", before.hidden_size, after.hidden_size));
        }
        if let (Some(before), Some(after)) = (before.experts, after.experts) {
            rows.truncate(2);
            rows.push(size("experts of all layers", before, after));
        }
        rows
    }

    fn findings(&self) -> String {
        let mut text = String::new();
        if let Some(gone) = &self.removed_coordinates {
            let gone: Vec<String> = gone.iter().map(usize::to_string).collect();
            let _ = writeln!(text, "{:<24} {}", "removed coordinates", gone.join(", "));
        }
        for removed in self.removed.iter().filter(|one| !one.experts.is_empty()) {
            let experts: Vec<String> = removed.experts.iter().map(usize::to_string).collect();
            let name = format!("removed from layer {}", removed.layer);
            let _ = writeln!(text, "{name:<24} experts {}", experts.join(", "));
        }
        for removed in self.removed.iter().filter(|one| !one.query_heads.is_empty() || !one.mlp_channels.is_empty()) {
            let heads: Vec<String> = removed.query_heads.iter().map(usize::to_string).collect();
            let heads = if heads.is_empty() { "none".into() } else { heads.join(", ") };
            let name = format!("removed from layer {}", removed.layer);
            let _ = writeln!(text, "{name:<24} heads {heads}; {} MLP channels", removed.mlp_channels.len());
        }
        text
    }

    fn tag(&self) -> &'static str {
        "pruned"
    }

    fn sizes(&self) -> Vec<(&'static str, usize)> {
        let Sizes { query_heads, key_value_heads, intermediate_size, experts, .. } = self.after;
        if let Some(experts) = experts {
            return vec![("experts", experts)];
        }
        if self.after.hidden_size != self.before.hidden_size {
            return vec![("hidden_size", self.after.hidden_size)];
        }
        vec![
            ("query_heads", query_heads),
            ("key_value_heads", key_value_heads),
            ("intermediate_size", intermediate_size),
        ]
    }

    fn introduction(&self, original: &str, version: &str) -> String {
        if self.experts {
            return format!(
                "# {original}, with fewer experts\n\nThis is {original} ({}) with {:.1} % fewer parameters. \
                 slicegpt-gpu {version} removed the experts of layers {} to {} whose weighted results are shortest: \
                 REAP, as published ([Lasby et al. 2025](https://arxiv.org/abs/2510.13999)). Nothing was trained after that.\n\n",
                self.model_type, self.percent_removed, self.first, self.last
            );
        }
        if self.after.hidden_size != self.before.hidden_size {
            return format!(
                "# {original}, narrower\n\nThis is {original} ({}) with {:.1} % fewer parameters. slicegpt-gpu {version} \
                 removed the coordinates of its residual stream that matter least by an estimate of LLM-Pruner ([Ma et \
                 al. 2023](https://arxiv.org/abs/2305.11627)), everywhere at once. Nothing was trained after that.\n\n",
                self.model_type, self.percent_removed
            );
        }
        let after = match self.refit {
            PruneRefit::None => "Nothing was trained after that.",
            PruneRefit::Writes => "What writes the residual stream was fitted to the original by least squares.",
        };
        format!(
            "# {original}, pruned\n\nThis is {original} ({}) with {:.1} % fewer parameters. slicegpt-gpu {version} \
             removed the attention heads and MLP channels of layers {} to {} that matter least by an estimate of \
             LLM-Pruner ([Ma et al. 2023](https://arxiv.org/abs/2305.11627)). {after}\n\n",
            self.model_type, self.percent_removed, self.first, self.last
        )
    }

    fn loading(&self) -> &'static str {
        loading(self.by_layer.is_some())
    }
}
