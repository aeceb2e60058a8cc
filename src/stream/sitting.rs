//! How far a pass of gradients is, and what resuming it needs: between two layers, the residuals before each step that
//! is still to be gone back through, the gradient of the one that was reached, and what was made of those before.

use std::fs;

use serde::{Deserialize, Serialize};

use super::commit::{Checksum, Saved, exact};
use crate::{
    checkpoint::OutputDirectory,
    error::{Error, Result},
};

/// What is done and durable of a pass.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Passed {
    /// The residuals after each step, as far as the pass forward has come: of whole layers.
    pub(super) points: Vec<Saved>,
    /// Where the pass back is, once it has begun.
    pub(super) back: Option<Back>,
}

/// Where a pass back is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Back {
    /// The first layers: those whose gradients are not handed over yet.
    pub left: usize,
    #[serde(with = "exact")]
    pub loss: f64,
    /// Of the residual before the layers that are over.
    pub gradient: Saved,
    /// What was made of the gradients that were handed over.
    pub found: Saved,
}

impl Passed {
    /// How many of a model's `all` layers have handed their gradients over.
    pub fn layers(&self, all: usize) -> usize {
        self.back.map_or(0, |back| all.saturating_sub(back.left))
    }

    /// Removes the files of a pass that is over and that nothing committed refers to any longer.
    pub fn remove(&self, directory: &OutputDirectory) {
        let points = (0..=self.points.len()).map(|number| format!("{}.0", point_name(number)));
        let of = |left: usize| {
            [format!("{}.0", layer_gradient(left)), format!("{}.0", step_gradient(left)), found_name(left)]
        };
        let gradients = [0, 1].into_iter().flat_map(of);
        // What stays for whatever reason is removed with the rest at the end.
        points
            .chain(gradients)
            .chain([format!("{GRADIENT}.0")])
            .for_each(|name| drop(fs::remove_file(directory.beside(&name))));
    }
}

/// The gradient of the residual after the last layer.
pub(super) const GRADIENT: &str = "gradient";

/// The residual before step `number` of the model.
pub(super) fn point_name(number: usize) -> String {
    format!("residual.{number}")
}

/// The gradient of the residual before layer `layer`, where that is kept: not in the file that was committed before.
pub(super) fn layer_gradient(layer: usize) -> String {
    format!("layer-gradient.{}", layer % 2)
}

/// That of the residual before step `number` of the model, until the next one is there.
pub(super) fn step_gradient(number: usize) -> String {
    format!("{GRADIENT}.{}", number % 2)
}

fn found_name(left: usize) -> String {
    format!("found.{}", left % 2)
}

fn checksum(values: &[f64]) -> u64 {
    let mut checksum = Checksum::default();
    checksum.add(bytemuck::cast_slice(values));
    checksum.value()
}

/// Makes durable what was made of the gradients of all but the first `left` layers.
pub(super) fn save_found(directory: &OutputDirectory, left: usize, found: &[f64]) -> Result<Saved> {
    directory.write_beside(&found_name(left), bytemuck::cast_slice(found))?;
    Ok(Saved { file: left % 2, checksum: checksum(found) })
}

/// Reads that back.
pub(super) fn load_found(directory: &OutputDirectory, saved: Saved) -> Result<Vec<f64>> {
    let path = directory.beside(&found_name(saved.file));
    let bytes = fs::read(&path).map_err(Error::kept(&path, Error::read(&path)))?;
    let whole = bytes.len().is_multiple_of(size_of::<f64>());
    let values: Vec<f64> = if whole { bytemuck::pod_collect_to_vec(&bytes) } else { Vec::new() };
    if !whole || checksum(&values) != saved.checksum {
        return Err(Error::bad_file(&path, "not what was written there; --force starts over"));
    }
    Ok(values)
}

/// Called at each commit point; returns false to stop there.
type Commit<'c> = &'c mut dyn FnMut(&Passed) -> Result<bool>;

/// A pass that is taken in one go, or in several with points between them that it can be resumed from.
pub struct Sitting<'c> {
    pub(super) passed: Passed,
    commit: Option<Commit<'c>>,
}

impl<'c> Sitting<'c> {
    /// All of a pass, with nothing kept.
    pub fn whole() -> Self {
        Self { passed: Passed::default(), commit: None }
    }

    /// Resumes after `from`.
    pub fn after(from: Passed, commit: Commit<'c>) -> Self {
        Self { passed: from, commit: Some(commit) }
    }

    /// How far it has come.
    pub fn passed(&self) -> &Passed {
        &self.passed
    }

    /// Whether it can be resumed.
    pub(super) fn keeps(&self) -> bool {
        self.commit.is_some()
    }

    /// Whether to go on.
    pub(super) fn commit(&mut self) -> Result<bool> {
        self.commit.as_mut().map_or(Ok(true), |commit| commit(&self.passed))
    }
}
