//! What the coordinates of the residual stream matter, as LLM-Pruner's channel mode has it: a coordinate leaves
//! everywhere at once, with its column of every weight that reads the stream, its row of every one that writes it, its
//! value of every norm, and its column of the embedding and of the head. Biases count nothing.

use std::{collections::BTreeMap, ops::Range};

use super::{
    importance::{Evidence, Importance, random},
    measure::{Measure, Sums},
};
use crate::{
    error::{Error, Result},
    gpu::Matrix,
    model::{AffineGradients, HostBlock, HostEnds, HostNorm, StepGradients, architecture::Space},
    stream::{Collect, GradientsAt, Sitting, Table},
};

/// Where a parameter stands in the model: before the layers, in one of them, or after; and there, in what order.
type Place = (usize, usize);

const TOKENS: Place = (0, 0);
const POSITIONS: Place = (0, 1);
/// More than a step has parameters.
const OF_STEP: usize = 1 << 10;

impl Measure<'_> {
    /// Of all coordinates: what each parameter has of one, put together in the order of the model; `None` if it was
    /// stopped.
    ///
    /// # Errors
    /// As [`Measure::run`].
    pub fn coordinates(&self, sitting: &mut Sitting) -> Result<Option<Vec<f64>>> {
        let (options, config) = (self.options, self.model.config());
        if options.importance == Importance::Random {
            return Ok(Some(random(config.hidden_size, options.seed, 0)));
        }
        let ends = self.model.store.ends()?;
        let mut measuring = Measuring { measure: *self, ends: &ends, sums: BTreeMap::new(), found: BTreeMap::new() };
        if options.importance.needs_gradient() {
            if self.gradients(None).sit(sitting, &mut measuring)?.is_none() {
                return Ok(None);
            }
        } else {
            measuring.weights()?;
        }
        let members: Vec<Vec<f64>> = measuring.found.into_values().map(|sums| options.importance.whole(sums)).collect();
        let found = options.aggregate.of(&members);
        match found.iter().position(|value| !value.is_finite()) {
            Some(at) => Err(Error::Numerical(format!("coordinate {at}: its importance is {}", found[at]))),
            None => Ok(Some(found)),
        }
    }
}

struct Measuring<'a> {
    measure: Measure<'a>,
    ends: &'a HostEnds<'a>,
    /// Of parameters of which not all gradients are there, by their place and their first row.
    sums: BTreeMap<(Place, usize), Sums>,
    /// What each parameter has of each coordinate.
    found: BTreeMap<Place, Vec<f64>>,
}

impl Measuring<'_> {
    fn norm_after_layers(&self) -> Place {
        (self.measure.model.config().layers.len() + 1, 0)
    }

    fn head_place(&self) -> Place {
        (self.measure.model.config().layers.len() + 1, 1)
    }

    /// Without gradients.
    fn weights(&mut self) -> Result<()> {
        let Measure { model, progress, memory, gpu, .. } = self.measure;
        let (ends, none, layers) = (self.ends, Sums::default(), model.config().layers.len());
        progress.begin("importance", layers as u64);
        let tables = [
            (TOKENS, Some(&ends.embedding)),
            (POSITIONS, ends.positions.as_ref()),
            (self.head_place(), Some(&ends.head)),
        ];
        for (place, table) in tables.into_iter().filter_map(|(place, table)| Some((place, table?))) {
            for rows in memory.parts(gpu, table) {
                self.count(place, &table.rows_f32(rows)?, &none, Coordinates::Columns);
            }
        }
        if let Some(norm) = &ends.final_norm {
            self.count(self.norm_after_layers(), &norm.weight, &none, Coordinates::Columns);
        }
        for layer in 0..layers {
            for (index, step) in model.store.layer(layer)?.steps.iter().enumerate() {
                for (number, parameter) in step.blocks.iter().flat_map(parameters).enumerate() {
                    let (weight, coordinates) = parameter.values()?;
                    self.count((layer + 1, index * OF_STEP + number), &weight, &none, coordinates);
                }
            }
            progress.advance(1)?;
        }
        Ok(())
    }

    /// Adds gradients of a parameter by the loss of `sequences`; with the last ones, counts it.
    fn add(
        &mut self,
        (place, first): (Place, usize),
        sequences: &Range<usize>,
        gradient: &Matrix,
        weight: impl FnOnce() -> Result<(Vec<f32>, Coordinates)>,
    ) -> Result<()> {
        let mut sums = self.sums.remove(&(place, first)).unwrap_or_default();
        self.measure.add(&mut sums, gradient, sequences)?;
        if sequences.end < self.measure.rows.len() {
            self.sums.insert((place, first), sums);
            return Ok(());
        }
        let (weight, coordinates) = weight()?;
        self.count(place, &weight, &sums, coordinates);
        Ok(())
    }

    /// Adds what some values of a parameter have of each coordinate.
    fn count(&mut self, place: Place, weight: &[f32], sums: &Sums, coordinates: Coordinates) {
        let width = self.measure.model.config().hidden_size;
        let columns = coordinates == Coordinates::Columns;
        let cols = if columns { width } else { weight.len() / width.max(1) };
        let evidence = Evidence { weight, gradient: &sums.gradient, squares: &sums.squares, cols };
        let found = self.found.entry(place).or_insert_with(|| vec![0.0; width]);
        let sums = evidence.sums(self.measure.options.importance, columns);
        found.iter_mut().zip(sums).for_each(|(sum, value)| *sum += value);
    }
}

/// Which of its sides a parameter has the coordinates on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coordinates {
    Rows,
    Columns,
}

/// A parameter of a block.
enum Parameter<'a> {
    Norm(&'a HostNorm),
    Linear(&'a crate::model::HostLinear<'a>),
}

impl Parameter<'_> {
    fn values(&self) -> Result<(Vec<f32>, Coordinates)> {
        match self {
            Self::Norm(norm) => Ok((norm.weight.clone(), Coordinates::Columns)),
            Self::Linear(linear) => {
                let writes = linear.spec.writes == Space::Residual;
                Ok((linear.matrix.to_f32()?, if writes { Coordinates::Rows } else { Coordinates::Columns }))
            }
        }
    }
}

/// Those of a block that the residual stream goes through.
fn parameters<'b>(block: &'b HostBlock) -> impl Iterator<Item = Parameter<'b>> {
    let norm = |norm: &'b Option<HostNorm>| norm.iter().map(Parameter::Norm);
    norm(&block.norm).chain(block.linears.iter().map(Parameter::Linear)).chain(norm(&block.norm_after))
}

impl Collect for Measuring<'_> {
    fn step(&mut self, at: GradientsAt, gradients: &StepGradients) -> Result<()> {
        let host = self.measure.model.store.layer(at.layer)?;
        let blocks = host.steps.get(at.step.index).map_or(&[][..], |step| &step.blocks);
        let missing = || Error::shape("importance", "a parameter without a gradient");
        let of_blocks = gradients.blocks.iter().zip(blocks).flat_map(|(gradients, block)| {
            let norm = block.norm.is_some().then_some(&gradients.norm);
            let norm_after = block.norm_after.is_some().then_some(&gradients.norm_after);
            let linears = gradients.linears.iter().map(|linear| &linear.affine);
            norm.into_iter().chain(linears).chain(norm_after)
        });
        let pairs: Vec<_> = of_blocks.zip(blocks.iter().flat_map(parameters)).enumerate().collect();
        for (number, (sums, parameter)) in pairs {
            let place = (at.layer + 1, at.step.index * OF_STEP + number);
            let gradient = sums.weight.as_ref().ok_or_else(missing)?;
            self.add((place, 0), &at.rows, gradient, || parameter.values())?;
        }
        Ok(())
    }

    fn ends(&self) -> bool {
        true
    }

    fn head(&mut self, sequences: Range<usize>, rows: Range<usize>, gradients: &AffineGradients) -> Result<()> {
        let (place, head) = (self.head_place(), &self.ends.head);
        let missing = || Error::shape("importance", "a head without a gradient");
        let gradient = gradients.weight.as_ref().ok_or_else(missing)?;
        self.add((place, rows.start), &sequences, gradient, || Ok((head.rows_f32(rows)?, Coordinates::Columns)))
    }

    fn final_norm(&mut self, sequences: Range<usize>, gradients: &AffineGradients) -> Result<()> {
        let (place, norm) = (self.norm_after_layers(), &self.ends.final_norm);
        match (norm, &gradients.weight) {
            (Some(norm), Some(gradient)) => {
                self.add((place, 0), &sequences, gradient, || Ok((norm.weight.clone(), Coordinates::Columns)))
            }
            _ => Ok(()),
        }
    }

    fn embedding(
        &mut self,
        table: Table,
        sequences: Range<usize>,
        rows: Range<usize>,
        gradient: &Matrix,
    ) -> Result<()> {
        let ends = self.ends;
        let (place, whole) = match (table, &ends.positions) {
            (Table::Positions, Some(positions)) => (POSITIONS, positions),
            _ => (TOKENS, &ends.embedding),
        };
        self.add((place, rows.start), &sequences, gradient, || Ok((whole.rows_f32(rows)?, Coordinates::Columns)))
    }
    fn found(&self) -> Vec<f64> {
        let flat = |(&(part, number), values): (&Place, &Vec<f64>)| {
            [part as f64, number as f64].into_iter().chain(values.iter().copied()).collect::<Vec<_>>()
        };
        self.found.iter().flat_map(flat).collect()
    }

    fn restore(&mut self, found: &[f64]) -> Result<()> {
        let parameters = found.chunks_exact(2 + self.measure.model.config().hidden_size);
        if !parameters.remainder().is_empty() {
            return Err(Error::shape("importance", "what was found of other coordinates"));
        }
        self.found = parameters.map(|one| ((one[0] as usize, one[1] as usize), one[2..].to_vec())).collect();
        Ok(())
    }
}
