//! What the groups of a model matter, from its weights and the gradients of its loss, one step of a layer at a time.

use std::{iter, ops::Range};

use super::{
    choice::LayerImportance,
    importance::{Evidence, of_channels, of_heads, of_queries, random},
    plan::Options,
};
use crate::{
    checkpoint::OutputDirectory,
    error::{Error, Result},
    gpu::{Gpu, Matrix},
    model::{
        HostBlock, HostLayer, HostMatrix, Kept, Model, StepGradients,
        architecture::{BlockKind, Role, Space},
    },
    progress::Progress,
    stream::{Change, Collect, Gradients, GradientsAt, MemoryPlan, Sitting},
};

/// A model, the examples whose loss counts, and what is left of it so far.
#[derive(Clone, Copy)]
pub struct Measure<'a> {
    pub gpu: &'a Gpu,
    pub model: &'a Model,
    pub rows: &'a [Vec<u32>],
    pub options: &'a Options,
    pub kept: &'a [Kept],
    pub memory: MemoryPlan,
    pub directory: &'a OutputDirectory,
    pub progress: &'a dyn Progress,
}

/// The gradient of a weight and its square, so far.
#[derive(Default)]
pub struct Sums {
    pub gradient: Vec<f32>,
    pub squares: Vec<f32>,
}

impl Measure<'_> {
    /// Of the layers that may be cut, in their order; `None` if it was stopped. What has left counts as nothing in the
    /// forward pass.
    ///
    /// # Errors
    /// Those of [`Gradients::sit`]; [`Error::BadTensor`], [`Error::Read`].
    pub fn run(&self, sitting: &mut Sitting) -> Result<Option<Vec<LayerImportance>>> {
        let layers = self.options.layers.clone();
        let found = layers.clone().map(|layer| LayerImportance { layer, ..LayerImportance::default() }).collect();
        let mut measuring = Measuring { measure: *self, sums: Vec::new(), found };
        if !self.options.importance.needs_gradient() {
            self.progress.begin("importance", layers.len() as u64);
            for layer in layers {
                let host = self.model.store.layer(layer)?;
                for block in host.blocks() {
                    measuring.block(layer, block, &[])?;
                }
                self.progress.advance(1)?;
            }
            return Ok(Some(measuring.found));
        }
        let change = |layer: usize, host: &mut HostLayer| self.mask(layer, host);
        let whole =
            self.model.config().layers.iter().zip(self.kept).all(|(spec, kept)| *kept == Kept::all(kept.layer, spec));
        let loss = self.gradients(if whole { None } else { Some(&change) }).sit(sitting, &mut measuring)?;
        Ok(loss.map(|_| measuring.found))
    }

    /// The gradients that are needed, where `change` is made to the weights first.
    pub(super) fn gradients<'m>(&'m self, change: Option<&'m Change<'m>>) -> Gradients<'m> {
        Gradients {
            gpu: self.gpu,
            model: self.model,
            rows: self.rows,
            memory: self.memory,
            directory: self.directory,
            progress: self.progress,
            apart: self.options.importance.needs_squares(),
            change,
            drawn: None,
            training: None,
        }
    }

    /// Adds the gradient of the mean loss of `sequences` to that of all, and its square to the mean of those of
    /// all sequences, where that is needed.
    pub(super) fn add(&self, sums: &mut Sums, gradient: &Matrix, sequences: &Range<usize>) -> Result<()> {
        let predicted = |rows: &[Vec<u32>]| rows.iter().map(|row| row.len() - 1).sum::<usize>() as f32;
        let share = predicted(&self.rows[sequences.clone()]) / predicted(self.rows);
        let values = self.gpu.download(gradient)?;
        sums.gradient.resize(values.len(), 0.0);
        sums.gradient.iter_mut().zip(&values).for_each(|(sum, value)| *sum += share * value);
        if self.options.importance.needs_squares() {
            sums.squares.resize(values.len(), 0.0);
            let one = 1.0 / self.rows.len() as f32;
            sums.squares.iter_mut().zip(&values).for_each(|(sum, value)| *sum += one * value * value);
        }
        Ok(())
    }

    /// Makes what has left of a layer add nothing to the residual stream, as if it were gone.
    fn mask(&self, layer: usize, host: &mut HostLayer) -> Result<()> {
        let (kept, spec) = (&self.kept[layer], &self.model.config().layers[layer]);
        for linear in host.steps.iter_mut().flat_map(|step| &mut step.blocks).flat_map(|block| &mut block.linears) {
            let (stays, width) = match linear.role {
                Role::Output if spec.delta.is_none() => (&kept.query_heads, spec.head_dim),
                Role::Down => (&kept.mlp_channels, 1),
                _ => continue,
            };
            let (rows, cols) = (linear.matrix.rows, linear.matrix.cols);
            let gone: Vec<usize> = (0..cols).filter(|col| stays.binary_search(&(col / width)).is_err()).collect();
            if gone.is_empty() {
                continue;
            }
            let mut values = linear.matrix.to_f32()?;
            for row in values.chunks_exact_mut(cols) {
                gone.iter().for_each(|&col| row[col] = 0.0);
            }
            linear.matrix = HostMatrix::from_f32(rows, cols, values);
        }
        Ok(())
    }
}

struct Measuring<'a> {
    measure: Measure<'a>,
    /// By the weights of the step under way.
    sums: Vec<Vec<Sums>>,
    found: Vec<LayerImportance>,
}

impl Measuring<'_> {
    /// What the groups of a block matter, whose weights have the gradients `sums`.
    fn block(&mut self, layer: usize, block: &HostBlock, sums: &[Sums]) -> Result<()> {
        let options = self.measure.options;
        let spec = &self.measure.model.config().layers[layer];
        // No heads of the one leave, and no channels of the other.
        if matches!(block.spec.kind, BlockKind::DeltaNet | BlockKind::Mixture) {
            return Ok(());
        }
        let attention = block.spec.kind == BlockKind::Attention;
        let Some(found) = self.found.iter_mut().find(|found| found.layer == layer) else { return Ok(()) };
        let values = if options.importance == super::Importance::Random {
            let (count, kind) = if attention { (spec.kv_heads, 0) } else { (spec.intermediate_size, 1) };
            random(count, options.seed, 2 * layer as u64 + kind)
        } else {
            let mut members = Vec::new();
            for (index, linear) in block.linears.iter().enumerate() {
                let weight = linear.matrix.to_f32()?;
                let (gradient, squares) =
                    sums.get(index).map_or((&[][..], &[][..]), |sums| (&sums.gradient, &sums.squares));
                let evidence = Evidence { weight: &weight, gradient, squares, cols: linear.matrix.cols };
                let columns = linear.spec.writes == Space::Residual;
                let saliences = evidence.saliences(options.importance, columns);
                // A channel is what is stored side by side, in the order of the files: that of queries and keys here
                // may be another.
                let rows = self.measure.model.config().weight_rows(linear.spec, linear.role, layer);
                members.push((linear.role, if columns { saliences } else { rows.in_stored_order(&saliences) }));
            }
            if attention {
                found.queries = of_queries(options.aggregate, &members, spec);
                of_heads(options.aggregate, &members, spec)
            } else {
                of_channels(options.aggregate, &members)
            }
        };
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            let what = if attention { "attention" } else { "MLP" };
            return Err(Error::Numerical(format!("layer {layer}: the importance of a group of its {what} is {value}")));
        }
        *(if attention { &mut found.attention } else { &mut found.mlp }) = values;
        Ok(())
    }
}

impl Collect for Measuring<'_> {
    fn step(&mut self, at: GradientsAt, gradients: &StepGradients) -> Result<()> {
        let Measure { model, rows, options, .. } = self.measure;
        if !options.layers.contains(&at.layer) {
            return Ok(());
        }
        if at.rows.start == 0 {
            let none = |block: &crate::model::BlockGradients| block.linears.iter().map(|_| Sums::default()).collect();
            self.sums = gradients.blocks.iter().map(none).collect();
        }
        let missing = || Error::shape("importance", "a weight without a gradient");
        for (block, sums) in gradients.blocks.iter().zip(&mut self.sums) {
            // Routers stay, and have no gradients.
            let linears = block.linears.iter().zip(sums).filter(|(linear, _)| linear.role != Role::Router);
            for (linear, sums) in linears {
                self.measure.add(sums, linear.affine.weight.as_ref().ok_or_else(missing)?, &at.rows)?;
            }
        }
        if at.rows.end < rows.len() {
            return Ok(());
        }
        let host = model.store.layer(at.layer)?;
        let sums = std::mem::take(&mut self.sums);
        let blocks = host.steps.get(at.step.index).map_or(&[][..], |step| &step.blocks);
        blocks.iter().zip(&sums).try_for_each(|(block, sums)| self.block(at.layer, block, sums))
    }
    fn found(&self) -> Vec<f64> {
        let lists = self.found.iter().flat_map(|layer| [&layer.attention, &layer.mlp, &layer.queries]);
        lists.flat_map(|list| iter::once(list.len() as f64).chain(list.iter().copied())).collect()
    }

    fn restore(&mut self, found: &[f64]) -> Result<()> {
        let other = || Error::shape("importance", "what was found of other layers");
        let mut rest = found;
        for list in self.found.iter_mut().flat_map(|layer| [&mut layer.attention, &mut layer.mlp, &mut layer.queries]) {
            let (count, values) = rest.split_first().ok_or_else(other)?;
            let (own, others) = values.split_at_checked(*count as usize).ok_or_else(other)?;
            *list = own.to_vec();
            rest = others;
        }
        if rest.is_empty() { Ok(()) } else { Err(other()) }
    }
}
