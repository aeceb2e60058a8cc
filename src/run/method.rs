//! What differs between the ways to make a model smaller; everything else of a run is the same for all.

use std::path::{Path, PathBuf};

use serde::{Serialize, de::DeserializeOwned};

use super::{examples::LossOn, request::Request};
use crate::{
    checkpoint::{FileTarget, TensorPlan},
    error::Result,
    gpu::Gpu,
    model::{Config, Model},
    stream::{Extent, Job, MemoryPlan, Peak, Speed, Types},
};

/// A way to make a model smaller, planned for one model: what will be written is known, no work is done.
pub trait Method: Sized {
    /// How it is asked for. Its fields have the names of the flags, and `--resume` compares them.
    type Options: Clone + Serialize;
    /// What it needs to resume after a layer.
    type Snapshot: Clone + Serialize + DeserializeOwned;
    /// What it says of the result.
    type Report: Section;

    /// Its name in the record of an output.
    const NAME: &'static str;
    /// What its work is called in progress, times and ceilings.
    const PHASE: &'static str;
    /// Whether the predictions of the result are compared with the original's.
    const COMPARES: bool = false;

    /// The files that its options name, to be read.
    fn inputs(_: &Self::Options) -> Option<&Path> {
        None
    }

    /// The other model that its options name, to be read.
    fn model(_: &Self::Options) -> Option<&Path> {
        None
    }

    /// What its options name to be written beside the output.
    fn besides(_: &Self::Options) -> Option<Besides<'_>> {
        None
    }

    /// Writes the file that is named so, once all that the output consists of is there.
    ///
    /// # Errors
    /// [`crate::Error::Write`].
    fn write_besides(&self, _: FileTarget, _: &Self::Snapshot) -> Result<()> {
        Ok(())
    }

    /// Whether a model that is calibrated on a file is calibrated on as much of its own writing, too.
    fn mixes(&self) -> bool {
        false
    }

    /// The files of other models that the result depends on.
    fn others(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Plans what is asked for.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] for options that contradict each other or the model.
    fn plan(model: &Model, request: &Request<Self::Options>) -> Result<Self>;

    /// How questions and answers of a calibration file are learned, each by itself; if `None`, they are text like any
    /// other.
    fn examples(&self) -> Option<LossOn> {
        None
    }

    /// The options in force: defaults resolved, also those that depend on the model.
    fn options(&self) -> Self::Options;

    /// In which types tensors are written.
    fn types(&self) -> &Types;

    /// The config of the result.
    fn config(&self) -> &Config;

    /// Every tensor of the result, in the order of writing.
    fn tensors(&self) -> &[TensorPlan];

    /// The text of config.json, given the sha256 of the tokens that were calibrated on.
    ///
    /// # Errors
    /// [`crate::Error::Internal`].
    fn config_json(&self, calibration_sha256: &str) -> Result<String>;

    /// One line on what will be done.
    fn summary(&self, model: &Model) -> String;

    /// What a user should know before the work.
    fn warnings(&self, model: &Model) -> Vec<String>;

    /// This method with what only its work has shown of the result.
    ///
    /// # Errors
    /// [`crate::Error::Internal`].
    fn settled(&self, model: &Model, found: &Self::Snapshot) -> Result<Self>;

    /// How often it goes through the layers, at most.
    fn passes(&self) -> usize;

    /// Whether nothing is left to do.
    fn is_done(&self, snapshot: &Self::Snapshot, layers: usize) -> bool {
        self.passed(snapshot, layers) == layers * self.passes()
    }

    /// Layers that it has gone through, those of earlier passes included, in a model of `layers` layers.
    fn passed(&self, snapshot: &Self::Snapshot, layers: usize) -> usize;

    /// The most memory that [`Method::run`] takes with this plan; `rope` is the size of the table of rotary angles,
    /// `element_size` that of a stored value, in bytes.
    fn peak(&self, memory: &MemoryPlan, config: &Config, calibration: &Extent, rope: u64, element_size: usize) -> Peak;

    /// How many seconds [`Method::run`] will take, about, with this many tokens.
    fn seconds(&self, speed: &Speed, config: &Config, tokens: usize) -> f64;

    /// Does the work, or what is left of it after `from`, and writes the tensors. `commit` is called where what is done
    /// is durable, and returns false to stop there.
    ///
    /// # Errors
    /// Those of `commit`; whatever the model, the GPU or the disk reports.
    fn run(
        &self,
        gpu: &Gpu,
        job: Job<'_>,
        from: Option<&Self::Snapshot>,
        commit: &mut dyn FnMut(&Self::Snapshot) -> Result<bool>,
    ) -> Result<Self::Snapshot>;

    /// Files of pictures that belong to the model card.
    fn pictures(&self) -> Vec<&'static str> {
        Vec::new()
    }

    /// What it says of the result, as far as it is known: `found` is the last snapshot, if there is one.
    fn report(&self, model: &Model, found: Option<&Self::Snapshot>) -> Self::Report;
}

/// What is written beside the output, and the flag that names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Besides<'a> {
    /// By [`Method::write_besides`].
    File(&'static str, &'a Path),
    /// By [`Method::run`], where it comes to its end.
    Directory(&'static str, &'a Path),
}

/// The part of a report that a method writes: its fields are fields of the whole report.
pub trait Section: Serialize {
    /// The first rows of the table: what, before, after, change.
    fn rows(&self) -> Vec<Row>;

    /// Lines of the table on what was found.
    fn findings(&self) -> String {
        String::new()
    }

    /// Lines after the table on what else could be asked for.
    fn advice(&self) -> String {
        String::new()
    }

    /// Sizes for the record of the output, by name.
    fn sizes(&self) -> Vec<(&'static str, usize)>;

    /// How the model card begins: a title, and what was done to `original` by this version.
    fn introduction(&self, original: &str, version: &str) -> String;

    /// What models that were made so are tagged with.
    fn tag(&self) -> &'static str;

    /// Sentences of the model card on what was found.
    fn card_findings(&self) -> String {
        String::new()
    }

    /// Pictures of the model card, by name.
    fn drawings(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// How the result is loaded: the end of the model card, before the commands of this program.
    fn loading(&self) -> &'static str;
}

/// What, before, after, change.
pub type Row = [String; 4];
