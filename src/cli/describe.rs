//! What `run` says of itself before the work, and what becomes of it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::json;

use super::run::Args;
use crate::{
    checkpoint::{SHARD_BYTES, shards},
    gpu::Precision,
    model::Model,
    record::FILE,
    report::{Alternative, Report, SCHEMA_VERSION, layers, percent_removed},
    slice::{Basis, Cut, Options, Plan, Refit, Signal, Site},
};

impl Args {
    /// What is known before the work.
    pub fn report(
        &self,
        model: &Model,
        plan: &Plan,
        options: &Options,
        output: &Path,
        companions: &[String],
    ) -> Report {
        let original_bytes = model.store.checkpoint.byte_len();
        let mut files: Vec<String> = shards(&plan.tensors, SHARD_BYTES).into_iter().map(|(name, _)| name).collect();
        if files.len() > 1 {
            files.push("model.safetensors.index.json".into());
        }
        files.extend(["config.json", FILE, "README.md"].map(String::from));
        files.extend(plan.config.python_files().iter().map(|(name, _)| (*name).into()));
        files.extend(companions.iter().cloned());
        Report {
            schema_version: SCHEMA_VERSION,
            tool_version: env!("CARGO_PKG_VERSION"),
            dry_run: self.dry_run,
            finished: false,
            layers_done: 0,
            arguments: json!({
                "model": shown(&self.model),
                "output": shown(output),
                "sparsity": if let Cut::Sparsity(sparsity) = options.cut { Some(sparsity) } else { None },
                "target_parameters": if let Cut::Parameters(share) = options.cut { Some(format!("{:+}%", -100.0 * share)) } else { None },
                "basis": options.basis.to_string(),
                "refit": options.refit.to_string(),
                "covariance": options.signal.to_string(),
                "ridge": options.ridge,
                "slice_head": options.slice_head,
                "round_interval": plan.round_interval,
                "final_orientation": options.orientation.to_string(),
                "calibration": shown(&self.calibration.calibration),
                "cal_nsamples": self.calibration.cal_nsamples,
                "cal_max_seqlen": self.calibration.cal_max_seqlen,
                "cal_batch_size": self.calibration.cal_batch_size,
                "seed": self.seed,
                "eval": self.eval.as_deref().map(shown),
                "ppl_eval_seqlen": self.ppl_eval_seqlen,
                "dtype": options.dtype.to_string(),
                "device": self.device.device,
                "precision": Precision::from(self.device.precision),
                "force": self.force.force,
                "max_gpu_memory": self.max_gpu_memory,
                "max_host_memory": self.max_host_memory,
            }),
            adapter: None,
            model_type: model.config().architecture.model_type.into(),
            basis: options.basis.to_string(),
            refit: options.refit.to_string(),
            ordinary: plan.stock,
            output: output.display().to_string(),
            seconds: Default::default(),
            hidden_size: model.config().hidden_size,
            sliced_width: plan.width,
            original_parameters: plan.original_parameters,
            parameters_after_fusion: plan.fused_parameters,
            sliced_parameters: plan.sliced_parameters,
            original_bytes,
            sliced_bytes: plan.byte_len(),
            percent_removed: percent_removed(plan.original_parameters, plan.sliced_parameters),
            percent_removed_after_fusion: percent_removed(plan.fused_parameters, plan.sliced_parameters),
            perplexity: None,
            calibration: None,
            layers: layers(&plan.config, &[]),
            kept_energy_of_embeddings: None,
            kept_energy_per_site: Vec::new(),
            largest_eigen_residual: None,
            largest_orthogonality_error: None,
            plan: None,
            memory: Vec::new(),
            estimated_seconds: Default::default(),
            peak_gpu_bytes: None,
            peak_host_bytes: None,
            files,
            warnings: Vec::new(),
            shared_basis: alternative(model, plan, options),
        }
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
        ..options.clone()
    };
    let shared = Plan::new(model.config(), &shared, "").ok()?;
    Some(Alternative {
        flags,
        sliced_width: shared.width,
        sliced_parameters: shared.sliced_parameters,
        percent_removed: percent_removed(shared.original_parameters, shared.sliced_parameters),
        ordinary: shared.stock,
    })
}

/// What was found at each site.
pub fn add_sites(report: &mut Report, plan: &Plan, sites: &[Site]) {
    report.layers = layers(&plan.config, sites);
    report.kept_energy_of_embeddings = sites.iter().find(|site| site.layer.is_none()).map(|site| site.kept_energy);
    report.kept_energy_per_site = sites.iter().map(|site| site.kept_energy).collect();
    report.largest_eigen_residual = sites.iter().map(|site| site.eigen_residual).reduce(f64::max);
    report.largest_orthogonality_error = sites.iter().map(|site| site.orthogonality).reduce(f64::max);
}

/// A path for messages and reports, also where it is not UTF-8.
pub fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// The path with a name at its end: `.` and `..` are resolved, links are not.
pub fn named(path: &Path) -> PathBuf {
    match path.file_name() {
        Some(_) => path.to_owned(),
        None => fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()),
    }
}

/// The name of an output that was given none: the model's and an ending, beside the model. A snapshot in a Hugging Face
/// cache is named by a hash, and nothing should be written there: its output is called after the repository, in the
/// current directory.
pub fn beside(model: &Path, ending: &str) -> PathBuf {
    let named = named(model);
    let directory = named.parent().and_then(|parent| fs::canonicalize(parent).ok());
    if let Some(repository) = repository(&named).or_else(|| repository(&directory?)) {
        return format!("{repository}{ending}").into();
    }
    // By the name as it was given: a file of a model may be a link to one with a meaningless name.
    let stem = if model.is_dir() { named.file_name() } else { named.file_stem() };
    let stem = stem.map_or("model".into(), |stem| stem.to_string_lossy().into_owned());
    named.with_file_name(format!("{stem}{ending}"))
}

/// The name of the repository that a path into a Hugging Face cache, `models--ORGANISATION--NAME/snapshots/HASH`,
/// speaks of.
fn repository(path: &Path) -> Option<String> {
    let path = std::path::absolute(path).ok()?;
    let names: Vec<_> = path.components().map(|component| component.as_os_str().to_string_lossy()).collect();
    let place = names.windows(3).rev().find(|names| names[0].starts_with("models--") && names[1] == "snapshots")?;
    place[0].rsplit("--").next().filter(|name| !name.is_empty()).map(str::to_owned)
}

/// What to call the model: its repository in a Hugging Face cache, or its directory.
pub fn name_of(path: &Path) -> String {
    if let Some(repository) = repository(&named(path)) {
        return repository;
    }
    let path = std::path::absolute(named(path)).unwrap_or_else(|_| path.to_owned());
    let directory = if path.is_dir() { Some(path.as_path()) } else { path.parent() };
    directory.and_then(Path::file_name).map_or("model".into(), |name| name.to_string_lossy().into_owned())
}
