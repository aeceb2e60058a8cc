//! What recovery says of its result.

use std::fmt::Write;

use serde::Serialize;

use super::{
    super::{
        method::{Row, Section},
        units::grouped,
    },
    chart,
};
use crate::{
    model::Config,
    recover::{Mode, Options, Snapshot},
};

/// The fields of a report that recovery writes.
#[derive(Debug, Clone, Serialize)]
pub struct RecoverReport {
    #[serde(skip)]
    model_type: &'static str,
    pub mode: Mode,
    #[serde(skip)]
    by_layer: Option<usize>,
    pub parameters: u64,
    pub trained_parameters: u64,
    /// Steps that are over.
    pub steps_done: usize,
    /// What was to become small, step by step.
    pub losses: Vec<f32>,
    /// The same on sequences that were not trained on, after this many steps.
    pub validation: Vec<(usize, f32)>,
    /// After which of these steps it was smallest: what is written.
    pub best_step: Option<usize>,
}

impl RecoverReport {
    /// Of a model of this config, as far as it is known.
    pub(in super::super) fn new(config: &Config, options: &Options, found: Option<&Snapshot>) -> Self {
        Self {
            model_type: config.architecture.model_type,
            mode: options.mode,
            by_layer: (options.mode == Mode::Blocks).then_some(options.steps),
            parameters: config.parameters(),
            trained_parameters: options.all_trained_parameters(config),
            steps_done: found.map_or(0, |found| found.steps),
            losses: found.map_or_else(Vec::new, |found| found.losses.clone()),
            validation: found.map_or_else(Vec::new, |found| found.validation.clone()),
            best_step: found.and_then(|found| found.best).map(|best| best.step),
        }
    }

    /// How many steps have gone where.
    pub(in super::super) fn training(&self) -> String {
        let how = match self.mode {
            Mode::Lora => "with low-rank adaptation ([Hu et al. 2021](https://arxiv.org/abs/2106.09685))",
            Mode::Blocks => {
                "towards the same layer of the dense model ([block reconstruction](https://arxiv.org/abs/2510.14444))"
            }
            Mode::Distil => {
                "towards the predictions of the dense model ([Hinton et al. 2015](https://arxiv.org/abs/1503.02531))"
            }
        };
        match self.by_layer {
            Some(steps) => format!("{steps} steps of each layer, {how}"),
            None => format!("{} steps {how}", self.steps_done),
        }
    }

    /// The mean of the first and of the last tenth of the losses; where layers are trained one by one, of all together.
    fn ends(&self) -> Option<[f64; 2]> {
        let each = self.by_layer.unwrap_or(self.losses.len()).max(1);
        let part = each.div_ceil(10);
        let mean = |losses: &[f32]| losses.iter().map(|loss| f64::from(*loss)).sum::<f64>() / losses.len() as f64;
        let layers = self.losses.chunks_exact(each);
        let count = layers.len() as f64;
        let ends = layers.map(|losses| [&losses[..part], &losses[each - part..]].map(mean));
        let sums = ends.fold([0.0; 2], |sums, found| [sums[0] + found[0], sums[1] + found[1]]);
        (count > 0.0).then(|| sums.map(|sum| sum / count))
    }
}

impl Section for RecoverReport {
    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        if let Some([first, last]) = self.ends() {
            let change = format!("{:+.2} %", 100.0 * (last / first - 1.0));
            rows.push(["training loss".into(), format!("{first:.4}"), format!("{last:.4}"), change]);
        }
        rows
    }

    fn findings(&self) -> String {
        let mut text = String::new();
        let _ = writeln!(
            text,
            "{:<24} {} of {}",
            "trained parameters",
            grouped(self.trained_parameters),
            grouped(self.parameters)
        );
        if !self.validation.is_empty() {
            let each: Vec<String> = self.validation.iter().map(|(step, loss)| format!("{step}: {loss:.4}")).collect();
            let _ = writeln!(text, "{:<24} {}", "held-out loss by step", each.join(", "));
        }
        text
    }

    fn sizes(&self) -> Vec<(&'static str, usize)> {
        vec![("steps_done", self.steps_done)]
    }

    fn introduction(&self, original: &str, version: &str) -> String {
        let how = self.training();
        format!(
            "# {original}, recovered\n\nThis is {original} ({}), trained further by slicegpt-gpu {version}: {how}.\n\n",
            self.model_type
        )
    }

    fn tag(&self) -> &'static str {
        "recovered"
    }

    fn card_findings(&self) -> String {
        format!("\n\n![The loss of each step]({})\n", chart::NAME)
    }

    fn drawings(&self) -> Vec<(&'static str, String)> {
        vec![(chart::NAME, chart::draw(&self.losses, &self.validation, self.by_layer))]
    }

    fn loading(&self) -> &'static str {
        "\n\nIt is loaded as the model is that it was made from. In this program:\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_of_layers_are_compared_layer_by_layer() {
        let report = |by_layer: Option<usize>, losses: &[f32]| RecoverReport {
            model_type: "",
            mode: if by_layer.is_none() { Mode::Lora } else { Mode::Blocks },
            by_layer,
            parameters: 2,
            trained_parameters: 1,
            steps_done: losses.len(),
            losses: losses.to_vec(),
            validation: Vec::new(),
            best_step: None,
        };
        let losses = [4.0, 3.0, 2.0, 8.0, 6.0, 5.0];
        assert_eq!(report(Some(3), &losses).ends(), Some([6.0, 3.5]));
        assert_eq!(report(Some(3), &losses[..5]).ends(), Some([4.0, 2.0]), "a layer that is not finished");
        assert_eq!(report(None, &losses).ends(), Some([4.0, 5.0]));
        assert_eq!(report(None, &[]).ends(), None);
        assert!(report(Some(3), &losses).training().starts_with("3 steps of each layer, towards the same layer"));
        assert!(report(None, &losses).training().starts_with("6 steps with low-rank"));
    }
}
