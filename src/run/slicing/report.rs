//! What slicing says of its result.

use std::fmt::Write;

use serde::Serialize;

use super::super::{
    method::{Row, Section},
    units::{bytes, grouped, percent_changed, percent_removed},
};
use crate::{
    model::{Config, LayerWidths, Model},
    slice::{Basis, Cut, Head, Options, Plan, Refit, Signal, Site, can_stay_tied},
};

/// The fields of a report that slicing writes.
#[derive(Debug, Clone, Serialize)]
pub struct SliceReport {
    /// `per-block`, `shared` or `segments=K`; and what was fitted again: `none`, `reads` or `full`.
    pub basis: String,
    pub refit: String,
    /// `tied` where the head is the embedding, else `untied`.
    pub head: String,
    #[serde(skip)]
    model_type: &'static str,
    /// Whether the result is an ordinary checkpoint of the original `model_type`.
    pub ordinary: bool,
    pub hidden_size: usize,
    pub sliced_width: usize,
    pub original_parameters: u64,
    /// After fusing the norms and untying the head, before slicing.
    pub parameters_after_fusion: u64,
    /// Shortcuts and untied head included.
    pub sliced_parameters: u64,
    pub original_bytes: u64,
    pub sliced_bytes: u64,
    /// 1 − sliced / original, in percent; negative if the model has grown.
    pub percent_removed: f64,
    /// The same against the fused model, as the paper counts.
    pub percent_removed_after_fusion: f64,
    pub layers: Vec<LayerReport>,
    pub kept_energy_of_embeddings: Option<f64>,
    /// In the order of the sites: embeddings, then after each half of each layer.
    pub kept_energy_per_site: Vec<f64>,
    pub largest_eigen_residual: Option<f64>,
    pub largest_orthogonality_error: Option<f64>,
    /// What one basis for the whole model would give instead, where each point has its own.
    pub shared_basis: Option<Alternative>,
}

/// One layer after slicing.
#[derive(Debug, Clone, Serialize)]
pub struct LayerReport {
    #[serde(flatten)]
    pub widths: LayerWidths,
    /// Of each half's output.
    pub kept_energy: Vec<f64>,
    pub largest_eigen_residual: Option<f64>,
}

/// The layers of a sliced config, with what was found at their sites.
fn layers(sliced: &Config, sites: &[Site]) -> Vec<LayerReport> {
    (0..sliced.layers.len())
        .map(|layer| {
            let here: Vec<&Site> = sites.iter().filter(|site| site.layer == Some(layer)).collect();
            LayerReport {
                widths: sliced.widths(layer),
                kept_energy: here.iter().map(|site| site.kept_energy).collect(),
                largest_eigen_residual: here.iter().map(|site| site.eigen_residual).reduce(f64::max),
            }
        })
        .collect()
}

/// Another way to the same size.
#[derive(Debug, Clone, Serialize)]
pub struct Alternative {
    /// The flags that ask for it.
    pub flags: String,
    pub sliced_width: usize,
    pub sliced_parameters: u64,
    pub percent_removed: f64,
    /// Whether the result would be an ordinary checkpoint of the original `model_type`.
    pub ordinary: bool,
}

impl SliceReport {
    /// What is planned, and what was found at each site, as far as it is known.
    pub(super) fn new(model: &Model, options: &Options, plan: &Plan, sites: &[Site]) -> Self {
        let Plan { original_parameters, fused_parameters, sliced_parameters, .. } = *plan;
        Self {
            basis: options.basis.to_string(),
            refit: options.refit.to_string(),
            head: options.head.to_string(),
            model_type: model.config().architecture.model_type,
            ordinary: plan.stock,
            hidden_size: model.config().hidden_size,
            sliced_width: plan.width,
            original_parameters,
            parameters_after_fusion: fused_parameters,
            sliced_parameters,
            original_bytes: model.store.checkpoint.stored_len(),
            sliced_bytes: plan.byte_len(),
            percent_removed: percent_removed(original_parameters, sliced_parameters),
            percent_removed_after_fusion: percent_removed(fused_parameters, sliced_parameters),
            layers: layers(&plan.config, sites),
            kept_energy_of_embeddings: sites.iter().find(|site| site.layer.is_none()).map(|site| site.kept_energy),
            kept_energy_per_site: sites.iter().map(|site| site.kept_energy).collect(),
            largest_eigen_residual: sites.iter().map(|site| site.eigen_residual).reduce(f64::max),
            largest_orthogonality_error: sites.iter().map(|site| site.orthogonality).reduce(f64::max),
            shared_basis: alternative(model, plan, options),
        }
    }

    /// Minimum and median of the kept energies of all sites but the embeddings.
    fn energy(&self) -> Option<(f64, f64)> {
        let mut energies: Vec<f64> = self.layers.iter().flat_map(|layer| layer.kept_energy.iter().copied()).collect();
        energies.sort_by(f64::total_cmp);
        let middle = (energies[energies.len().checked_sub(1)? / 2] + energies[energies.len() / 2]) / 2.0;
        Some((*energies.first()?, middle))
    }
}

impl Section for SliceReport {
    fn rows(&self) -> Vec<Row> {
        let row = |what: &str, before: u64, after: u64, shown: fn(u64) -> String| {
            let change = format!("{:+.2} %", percent_changed(before, after));
            [what.into(), shown(before), shown(after), change]
        };
        let (fused, sliced) = (self.parameters_after_fusion, self.sliced_parameters);
        vec![
            row("width", self.hidden_size as u64, self.sliced_width as u64, |width| width.to_string()),
            row("parameters", self.original_parameters, sliced, grouped),
            row("parameters, fused+untied", fused, sliced, grouped),
            row("bytes", self.original_bytes, self.sliced_bytes, bytes),
        ]
    }

    fn findings(&self) -> String {
        let mut text = String::new();
        if let Some((least, median)) = self.energy() {
            let over = if self.basis == "per-block" { " over the layers" } else { ", of each basis" };
            let _ = writeln!(text, "kept energy              min {least:.6}, median {median:.6}{over}");
            for (index, layer) in self.layers.iter().enumerate().filter(|(_, layer)| !layer.kept_energy.is_empty()) {
                let energies: Vec<String> = layer.kept_energy.iter().map(|energy| format!("{energy:.6}")).collect();
                let LayerWidths { attention_input, mlp_input, output, .. } = layer.widths;
                let _ = writeln!(
                    text,
                    "  layer {index:<3} widths {attention_input} > {mlp_input} > {output}, kept {}",
                    energies.join(" ")
                );
            }
        }
        if let Some(residual) = self.largest_eigen_residual {
            let _ = writeln!(text, "largest eigen-residual   {residual:.1e}");
        }
        text
    }

    fn advice(&self) -> String {
        let Some(Alternative { flags, sliced_width, sliced_parameters, percent_removed, ordinary }) =
            &self.shared_basis
        else {
            return String::new();
        };
        let ordinary =
            if *ordinary { format!(", as an ordinary {} checkpoint", self.model_type) } else { String::new() };
        let parameters = grouped(*sliced_parameters);
        format!(
            "{flags} would keep a width of {sliced_width} in {parameters} parameters ({:+.2} %){ordinary}\n",
            -percent_removed
        )
    }

    fn sizes(&self) -> Vec<(&'static str, usize)> {
        vec![("hidden_size", self.hidden_size), ("width", self.sliced_width)]
    }

    fn introduction(&self, original: &str, version: &str) -> String {
        let method = match self.basis.as_str() {
            "per-block" => "its residual stream was rotated into the principal axes of its signals at each point",
            "shared" => "its residual stream was moved into one basis for the whole model",
            _ => "its residual stream was moved into one basis for each of a few runs of layers",
        };
        let refit = match self.refit.as_str() {
            "none" => "",
            "reads" => "; the weights that read it were fitted to the original by least squares",
            _ => "; the weights were fitted to the original by least squares",
        };
        let (model_type, whole, cut) = (self.model_type, self.hidden_size, self.sliced_width);
        format!(
            "# {original}, sliced\n\nThis is {original} ({model_type}) after SliceGPT (arXiv 2401.15024): {method} and \
             cut from {whole} to {cut} coordinates by slicegpt-gpu {version}{refit}.\n\n"
        )
    }

    fn tag(&self) -> &'static str {
        "sliced"
    }

    fn card_findings(&self) -> String {
        self.energy().map_or_else(String::new, |(least, median)| {
            format!("\nKept energy over the bases: min {least:.6}, median {median:.6}.")
        })
    }

    fn loading(&self) -> &'static str {
        if self.ordinary { ORDINARY } else { SLICED }
    }
}

/// What one basis for the whole model would give in as many parameters, or, where none are saved, at the same sparsity.
fn alternative(model: &Model, plan: &Plan, options: &Options) -> Option<Alternative> {
    if options.basis != Basis::PerBlock {
        return None;
    }
    let removed = percent_removed(plan.original_parameters, plan.sliced_parameters);
    // Rounded down, so that rounding does not ask for more than was removed.
    let percent = (removed * 10.0).floor() / 10.0;
    let (cut, flags) = if percent > 0.0 {
        (Cut::Parameters(percent / 100.0), format!("--basis shared --target-parameters -{percent}%"))
    } else {
        (options.cut, "--basis shared".to_owned())
    };
    let shared = Options {
        cut,
        basis: Basis::SHARED,
        refit: Refit::Full,
        signal: Signal::Normed,
        slice_head: true,
        head: if can_stay_tied(model.config(), Basis::SHARED) { Head::Tied } else { Head::Untied },
        ..options.clone()
    };
    let shared = Plan::new(model.config(), &shared).ok()?;
    Some(Alternative {
        flags,
        sliced_width: shared.width,
        sliced_parameters: shared.sliced_parameters,
        percent_removed: percent_removed(shared.original_parameters, shared.sliced_parameters),
        ordinary: shared.stock,
    })
}

/// How an ordinary checkpoint is loaded.
const ORDINARY: &str = "

This is an ordinary checkpoint, only narrower. In transformers:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(\".\")
tokenizer = AutoTokenizer.from_pretrained(\".\")
```

`slicegpt-gpu export . --format gguf` makes a file for llama.cpp of it, where that knows the architecture. In this \
program:
";

/// How a checkpoint with shortcuts is loaded.
const SLICED: &str = "

The tensors have their original names; norms are fused into the weights beside them. `attn_shortcut_Q` and \
`mlp_shortcut_Q`, where there are any, \
carry the residual past a block, x · Q. Norms divide by `slicing.norm_width` of config.json.

In transformers, with the Python files beside this one:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(\".\", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(\".\", trust_remote_code=True)
```

In this program:
";
