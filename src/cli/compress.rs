//! `slicegpt-gpu compress`

use std::str::FromStr;

use clap::ValueEnum;

use super::{slicing::parse_share, work::WorkArgs};
use crate::{
    compress::{Axis, Effort, Goal},
    error::{Error, Result},
    model::Model,
    recover::Mode,
    run::{
        Compress, CompressImportance, CompressRequest, Log, Request, VocabularyRequest, memory::parse_bytes, narrow,
    },
};

const METHOD: &str = "How to compress";

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Remove this share of the stored parameters, such as -20% [default: -20%]
    #[arg(long, value_name = "PERCENT", allow_hyphen_values = true, value_parser = parse_share)]
    #[arg(conflicts_with_all = ["target_size", "keep"])]
    target_parameters: Option<f64>,
    /// Let the tensors take up to this many bytes, such as 100MB, in the types that they are written in
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, conflicts_with = "keep")]
    target_size: Option<u64>,
    /// Keep this share of the stored parameters, such as 80%
    #[arg(long, value_name = "PERCENT", allow_hyphen_values = true, value_parser = parse_kept)]
    keep: Option<f64>,
    /// What may be cut: some of width, mlp, heads, kv-heads, layers and experts [default: all that the model can be cut
    /// on]; and vocabulary, with --vocabulary, which alone leaves everything else as it is
    #[arg(long, value_name = "AXES", value_delimiter = ',')]
    axes: Option<Vec<AxisArg>>,
    /// Leave tokens out, too: keep at most N, the most used of the calibration first, or those of the texts in a file
    #[arg(long, value_name = "N|TEXT")]
    vocabulary: Option<VocabularyRequest>,
    /// How many probes and candidates are tried
    #[arg(long, help_heading = METHOD, default_value = "normal")]
    effort: EffortArg,
    /// Let layers differ in their MLP channels and heads where that is better: transformers then loads the result with
    /// trust_remote_code
    #[arg(long, help_heading = METHOD)]
    per_layer: bool,
    /// Which heads and channels leave: obs, those whose loss costs the predictions least after the others are fitted;
    /// taylor, those that LLM-Pruner's gradients say matter least
    #[arg(long, help_heading = METHOD, default_value = "obs")]
    importance: ImportanceArg,
    /// How strongly re-fitted weights are pulled towards the original ones, as a share of the mean energy of what they
    /// read
    #[arg(long, help_heading = METHOD, default_value_t = 0.03, value_name = "LAMBDA")]
    ridge: f64,
    /// Then train what was cut for N steps, towards the original on the calibration (see recover)
    #[arg(long, help_heading = METHOD, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    recover: Option<u32>,
    /// How --recover trains: blocks, each layer towards that of the original; distil, towards its predictions; or lora,
    /// on the next tokens of the calibration [default: blocks where the width is whole, else distil]
    #[arg(long, help_heading = METHOD, value_name = "lora|blocks|distil", requires = "recover")]
    recover_mode: Option<Mode>,
    /// The learning rate of --recover at its highest [default: that of recover]
    #[arg(long, aliases = ["recover-rate", "recover-lr"], help_heading = METHOD, value_name = "RATE")]
    #[arg(requires = "recover")]
    recover_learning_rate: Option<f64>,
    #[command(flatten)]
    work: WorkArgs,
}

/// The share of `80%`; what begins with a minus is meant to leave.
fn parse_kept(text: &str) -> std::result::Result<f64, String> {
    let share = parse_share(text).ok().filter(|_| !text.trim_start().starts_with('-'));
    share.ok_or_else(|| format!("expected a percentage such as 80%, found {text:?}"))
}

/// An axis, or the vocabulary.
#[derive(Debug, Clone, Copy)]
struct AxisArg(Option<Axis>);

impl FromStr for AxisArg {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text == "vocabulary" { Ok(Self(None)) } else { text.parse().map(|axis| Self(Some(axis))) }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum EffortArg {
    Quick,
    Normal,
    Thorough,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ImportanceArg {
    Obs,
    Taylor,
}

impl Args {
    /// What is asked for.
    ///
    /// # Errors
    /// [`Error::Usage`] if --axes names the vocabulary and --vocabulary is missing.
    pub fn request(&self) -> Result<Request<CompressRequest>> {
        let goal = match (self.target_parameters, self.target_size, self.keep) {
            (Some(share), ..) => Goal::Parameters(share),
            (_, Some(bytes), _) => Goal::Bytes(bytes),
            (.., Some(share)) => Goal::Parameters(1.0 - share),
            _ => CompressRequest::default().goal,
        };
        let effort = match self.effort {
            EffortArg::Quick => Effort::Quick,
            EffortArg::Normal => Effort::Normal,
            EffortArg::Thorough => Effort::Thorough,
        };
        let importance = match self.importance {
            ImportanceArg::Obs => CompressImportance::Obs,
            ImportanceArg::Taylor => CompressImportance::Taylor,
        };
        if self.vocabulary.is_none() && self.axes.iter().flatten().any(|AxisArg(axis)| axis.is_none()) {
            let reason = "--axes vocabulary: say which tokens stay, with --vocabulary N or --vocabulary TEXT";
            return Err(Error::Usage(reason.into()));
        }
        let axes = self.axes.as_ref().map(|axes| {
            let mut axes: Vec<Axis> = axes.iter().filter_map(|AxisArg(axis)| *axis).collect();
            axes.sort_by_key(|axis| Axis::ALL.iter().position(|other| other == axis));
            axes.dedup();
            axes
        });
        let ending = match goal {
            _ if axes.as_ref().is_some_and(Vec::is_empty) => "vocabulary".into(),
            Goal::Parameters(share) => format!("minus-{}", (share * 1e6).round() / 1e4),
            Goal::Bytes(bytes) => format!("{bytes}-bytes"),
        };
        let (per_layer, ridge, vocabulary) = (self.per_layer, self.ridge, self.vocabulary.clone());
        let recover = self.recover.map(|steps| steps as usize);
        let (recover_mode, recover_learning_rate) = (self.recover_mode, self.recover_learning_rate);
        let request = CompressRequest {
            goal,
            axes,
            effort,
            per_layer,
            importance,
            ridge,
            recover,
            recover_mode,
            recover_learning_rate,
            vocabulary,
        };
        Ok(self.work.request(request, &format!("compressed-{ending}")))
    }

    pub fn execute(&self) -> Result<()> {
        let request = self.request()?;
        let prepare = |model: Model, log: &Log| match &request.method.vocabulary {
            Some(vocabulary) => narrow(model, vocabulary, request.calibration.file(), log),
            None => Ok(model),
        };
        self.work.execute_on::<Compress>(&request, prepare)
    }
}
