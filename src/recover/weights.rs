//! The weights of layers in training: those of the file, and what is trained of them or beside them.

use std::{cell::RefCell, collections::HashMap, ops::Range};

use super::{norms::NormState, options::Options, parameters::Parameter};
use crate::{
    error::{Error, Result},
    gpu::{Gpu, Matrix},
    model::{
        Adapter, AffineGradients, BlockWeights, HostBlock, HostLinear, HostMatrix, HostNorm, HostStep, Linear,
        LinearGradients, LowRank, Model, NormWeights, Step, StepGradients, StepWeights,
        architecture::{Block, BlockKind, Role},
    },
    ops::Dropout,
    stream::Supply,
};

/// The weights of a model as they are stored, kept on the GPU where there is room.
pub(super) struct Stored<'a> {
    gpu: &'a Gpu,
    model: &'a Model,
    kept: Option<RefCell<HashMap<(usize, usize), StepWeights>>>,
    /// How they are trained, if they are: then they are widened to f32, and have what is trained of experts among them.
    trained: Option<&'a Options>,
}

impl<'a> Stored<'a> {
    pub fn new(gpu: &'a Gpu, model: &'a Model, resident: bool, trained: Option<&'a Options>) -> Self {
        Self { gpu, model, kept: resident.then(RefCell::default), trained }
    }
}

/// The weights of the expert of a layer that every token goes to, but for its gate, where some of them are trained.
fn shared_linears<'m>(model: &'m Model, options: &Options, layer: usize) -> Result<Vec<HostLinear<'m>>> {
    let mut linears = model.store.shared_expert(layer)?;
    linears.pop();
    let trained = linears.iter().any(|linear| options.trains(linear.role).is_some());
    Ok(if trained { linears } else { Vec::new() })
}

/// The linear weights of a block, those of the `shared` expert of a mixture included.
fn with_shared<'h, 'm>(
    block: &'h HostBlock<'m>,
    shared: &'h [HostLinear<'m>],
) -> impl Iterator<Item = &'h HostLinear<'m>> {
    block.linears.iter().chain(if block.spec.kind == BlockKind::Mixture { shared } else { &[] })
}

impl Supply for Stored<'_> {
    fn weights(&self, layer: usize, step: Step) -> Result<StepWeights> {
        let place = (layer, step.index);
        if let Some(found) = self.kept.as_ref().and_then(|kept| kept.borrow().get(&place).cloned()) {
            return Ok(found);
        }
        let mut host = self.model.store.layer(layer)?;
        if let Some(options) = self.trained {
            let mut shared = shared_linears(self.model, options, layer)?;
            for block in host.steps.iter_mut().flat_map(|step| &mut step.blocks) {
                if block.spec.kind == BlockKind::Mixture {
                    block.linears.append(&mut shared);
                }
                for linear in &mut block.linears {
                    let (rows, cols) = (linear.matrix.rows, linear.matrix.cols);
                    linear.matrix = HostMatrix::from_f32(rows, cols, linear.matrix.to_f32()?);
                }
            }
        }
        let weights = StepWeights::upload(self.gpu, &host.steps[step.index], host.fused)?;
        if let Some(kept) = &self.kept {
            kept.borrow_mut().insert(place, weights.clone());
        }
        Ok(weights)
    }
}

/// What is trained of a linear weight.
struct LinearState {
    /// A and B.
    low_rank: Option<[Parameter; 2]>,
    weight: Option<Parameter>,
    bias: Option<Parameter>,
}

/// What is trained of a block.
struct BlockState {
    spec: &'static Block,
    /// The norm before it, unless that is the norm before another block of the step, which has it then.
    norm: Option<NormState>,
    /// Of its result.
    norm_after: Option<NormState>,
    /// Of queries and keys.
    head_norms: Option<[NormState; 2]>,
    linears: Vec<LinearState>,
}

type StepState = Vec<BlockState>;

/// Some layers of a model in training.
pub(super) struct Layers<'a> {
    gpu: &'a Gpu,
    options: &'a Options,
    stored: Stored<'a>,
    range: Range<usize>,
    /// By layer and step.
    states: Vec<Vec<StepState>>,
    final_norm: Option<NormState>,
    /// What was worked out since the last change, where there is room to keep it.
    current: Option<RefCell<HashMap<(usize, usize), StepWeights>>>,
    /// Of what is left out in the step under way.
    seed: u32,
}

impl<'a> Layers<'a> {
    /// Before the first step.
    pub fn new(
        gpu: &'a Gpu,
        model: &'a Model,
        options: &'a Options,
        range: Range<usize>,
        resident: bool,
    ) -> Result<Self> {
        let mut states = Vec::new();
        for layer in range.clone() {
            let (host, shared) = (model.store.layer(layer)?, shared_linears(model, options, layer)?);
            let steps = host.steps.iter().enumerate();
            let state = |(step, host)| state_of(gpu, options, (layer, step), host, &shared);
            states.push(steps.map(state).collect::<Result<_>>()?);
        }
        let stored = Stored::new(gpu, model, resident, Some(options));
        let current = resident.then(RefCell::default);
        Ok(Self { gpu, options, stored, range, states, final_norm: None, current, seed: 0 })
    }

    /// With the final norm, where norms are trained.
    pub fn with_final_norm(mut self) -> Result<Self> {
        let norm = if self.options.trained.norms { self.stored.model.store.final_norm()? } else { None };
        self.final_norm = norm.map(|norm| NormState::new(self.gpu, &norm)).transpose()?;
        Ok(self)
    }

    /// All that is trained, in a fixed order.
    pub fn parameters(&mut self) -> Vec<&mut Parameter> {
        let mut all = Vec::new();
        for block in self.states.iter_mut().flatten().flatten() {
            let BlockState { norm, norm_after, head_norms, linears, .. } = block;
            let norms = norm.iter_mut().chain(norm_after).chain(head_norms.iter_mut().flatten());
            all.extend(norms.flat_map(NormState::parameters));
            for linear in linears {
                all.extend(linear.low_rank.iter_mut().flatten());
                all.extend(linear.weight.iter_mut().chain(&mut linear.bias));
            }
        }
        all.extend(self.final_norm.iter_mut().flat_map(NormState::parameters));
        all
    }

    /// Begins a step: what was worked out from the parameters before is forgotten, and other values are left out.
    pub fn begin(&mut self, step: usize) {
        if let Some(current) = &self.current {
            current.borrow_mut().clear();
        }
        self.seed = (self.options.seed as u32).wrapping_mul(0x9e37_79b9).wrapping_add(step as u32);
    }

    /// Hands the gradients of a step of a layer to what is trained of it.
    pub fn set_gradients(&mut self, layer: usize, step: usize, gradients: &StepGradients) -> Result<()> {
        let state = &mut self.states[layer - self.range.start][step];
        state.iter_mut().enumerate().try_for_each(|(block, state)| set_gradients(self.gpu, state, block, gradients))
    }

    /// Whether the final norm is trained.
    pub fn trains_final_norm(&self) -> bool {
        self.final_norm.is_some()
    }

    /// Hands it its gradient.
    pub fn set_final_norm(&mut self, gradients: &AffineGradients) -> Result<()> {
        self.final_norm.as_mut().map_or(Ok(()), |norm| norm.set_gradients(self.gpu, &[gradients]))
    }

    /// The final norm as it is to be stored, if it is trained.
    pub fn final_norm(&self) -> Result<Option<HostNorm>> {
        self.final_norm.as_ref().map(|norm| norm.host(self.gpu)).transpose()
    }

    /// The weights of a step with all that is trained in them.
    pub fn merged(&self, layer: usize, step: Step) -> Result<StepWeights> {
        self.made(layer, step, false)
    }

    /// A and B of all weights that have them.
    pub fn low_rank(&self) -> Result<Vec<LowRank>> {
        let mut all = Vec::new();
        for (layer, steps) in self.range.clone().zip(&self.states) {
            let shared = shared_linears(self.stored.model, self.options, layer)?;
            for (host, state) in self.stored.model.store.layer(layer)?.steps.iter().zip(steps) {
                for (block, state) in host.blocks.iter().zip(state) {
                    for (linear, state) in with_shared(block, &shared).zip(&state.linears) {
                        let Some([a, b]) = &state.low_rank else { continue };
                        let HostLinear { spec, role, .. } = *linear;
                        let (rank, [a, b]) =
                            (a.value.rows(), [self.gpu.download(&a.value)?, self.gpu.download(&b.value)?]);
                        all.push(LowRank { layer, spec, role, rank, a, b });
                    }
                }
            }
        }
        Ok(all)
    }

    fn made(&self, layer: usize, step: Step, drops: bool) -> Result<StepWeights> {
        let mut weights = self.stored.weights(layer, step)?;
        let outside = || Error::shape("training", format!("layer {layer} of {:?}", self.range));
        let steps = layer.checked_sub(self.range.start).and_then(|at| self.states.get(at)).ok_or_else(outside)?;
        let states = &steps[step.index];
        for (number, (block, state)) in weights.blocks.iter_mut().zip(states).enumerate() {
            let norm = states.iter().find(|one| one.spec.norm == state.spec.norm).and_then(|one| one.norm.as_ref());
            if let (Some(trained), Some(norm)) = (norm, &mut block.norm) {
                trained.put(self.gpu, norm)?;
            }
            self.put(block, state, drops.then_some((layer, step.index, number)))?;
        }
        Ok(weights)
    }

    /// Puts what is trained of a block, but for the norm before it, into its weights; `place` is given if some of what
    /// it reads is left out.
    fn put(&self, block: &mut BlockWeights, state: &BlockState, place: Option<(usize, usize, usize)>) -> Result<()> {
        let (gpu, scale) = (self.gpu, self.options.scale());
        if let (Some(trained), Some(norm)) = (&state.norm_after, &mut block.norm_after) {
            trained.put(gpu, norm)?;
        }
        if let (Some(trained), Some(norms)) = (&state.head_norms, &mut block.head_norms) {
            trained.iter().zip(norms).try_for_each(|(trained, norm)| trained.put(gpu, norm))?;
        }
        for (index, (linear, state)) in block.linears.iter_mut().zip(&state.linears).enumerate() {
            state.weight.iter().for_each(|trained| linear.weight = trained.value.clone());
            state.bias.iter().for_each(|trained| linear.bias = Some(trained.value.clone()));
            let Some([a, b]) = &state.low_rank else { continue };
            let dropout = place.filter(|_| self.options.dropout > 0.0).map(|(layer, step, block)| {
                let number = ((layer * 4 + step) * 4 + block) * 16 + index;
                let seed = self.seed.wrapping_mul(0x85eb_ca6b) ^ (number as u32).wrapping_mul(0xc2b2_ae35);
                Dropout { rate: self.options.dropout as f32, seed, scale }
            });
            if dropout.is_none() {
                linear.weight = sum(gpu, &linear.weight, &b.value, &a.value, scale)?;
            }
            let Linear { spec, role, .. } = *linear;
            block.adapters.push(Adapter { spec, role, a: a.value.clone(), b: b.value.clone(), scale, dropout });
        }
        Ok(())
    }
}

impl Supply for Layers<'_> {
    fn weights(&self, layer: usize, step: Step) -> Result<StepWeights> {
        let place = (layer, step.index);
        if let Some(found) = self.current.as_ref().and_then(|current| current.borrow().get(&place).cloned()) {
            return Ok(found);
        }
        let weights = self.made(layer, step, true)?;
        if let Some(current) = &self.current {
            current.borrow_mut().insert(place, weights.clone());
        }
        Ok(weights)
    }

    fn final_norm(&self) -> Result<Option<NormWeights>> {
        let scale = self.stored.model.config().logit_scale;
        self.final_norm.as_ref().map(|norm| norm.scaled(self.gpu, scale)).transpose()
    }
}

/// [`Layers`] without dropout, to be measured.
pub(super) struct Whole<'l, 'a>(pub &'l Layers<'a>);

impl Supply for Whole<'_, '_> {
    fn weights(&self, layer: usize, step: Step) -> Result<StepWeights> {
        if self.0.options.dropout > 0.0 { self.0.merged(layer, step) } else { self.0.weights(layer, step) }
    }

    fn final_norm(&self) -> Result<Option<NormWeights>> {
        Supply::final_norm(self.0)
    }
}

/// `w + scale · b · a`.
fn sum(gpu: &Gpu, w: &Matrix, b: &Matrix, a: &Matrix, scale: f32) -> Result<Matrix> {
    let sum = gpu.zeros(w.rows(), w.cols())?;
    gpu.subtract(&sum, w, -1.0)?;
    gpu.subtract(&sum, &gpu.matmul(b, a)?, -scale)?;
    Ok(sum)
}

fn state_of(
    gpu: &Gpu,
    options: &Options,
    (layer, step): (usize, usize),
    host: &HostStep,
    shared: &[HostLinear],
) -> Result<StepState> {
    let row = |wanted: bool, values: Option<&Vec<f32>>| {
        values.filter(|_| wanted).map(|values| Parameter::new(gpu, values, 1, values.len())).transpose()
    };
    let (trained, blocks) = (&options.trained, &host.blocks);
    let linear = |index: usize, HostLinear { role, matrix, bias, .. }: &HostLinear| {
        let (rows, cols) = (matrix.rows, matrix.cols);
        let trains = options.trains(*role);
        let stream = ((layer * 4 + step) * 64 + index) as u64;
        Ok::<_, Error>(LinearState {
            low_rank: if trains == Some(false) {
                let rank = options.rank;
                Some([Parameter::drawn(gpu, [rank, cols], options.seed, stream)?, Parameter::zeros(gpu, rows, rank)?])
            } else {
                None
            },
            weight: if trains == Some(true) { Some(Parameter::new(gpu, &matrix.to_f32()?, rows, cols)?) } else { None },
            bias: row(trained.biases && *role != Role::Router, bias.as_ref())?,
        })
    };
    let norm = |norm: &HostNorm| NormState::new(gpu, norm);
    let block = |number: usize, host: &HostBlock| {
        let HostBlock { spec, norm: before, norm_after, head_norms, .. } = host;
        // Blocks side by side may read the same norm.
        let first = blocks[..number].iter().all(|other| other.spec.norm != spec.norm);
        let linears = with_shared(host, shared).enumerate();
        let linears = linears.map(|(index, host)| linear(number * 16 + index, host));
        let [before, after] = [before.as_ref().filter(|_| first), norm_after.as_ref()]
            .map(|host| host.filter(|_| trained.norms).map(norm).transpose());
        let head_norms = head_norms.as_ref().filter(|_| trained.norms);
        let head_norms = head_norms.map(|[q, k]| Ok::<_, Error>([norm(q)?, norm(k)?])).transpose()?;
        let linears = linears.collect::<Result<_>>()?;
        Ok::<_, Error>(BlockState { spec, norm: before?, norm_after: after?, head_norms, linears })
    };
    blocks.iter().enumerate().map(|(number, host)| block(number, host)).collect()
}

/// Hands the gradients of a step to what is trained of block number `block` of it.
fn set_gradients(gpu: &Gpu, state: &mut BlockState, block: usize, step: &StepGradients) -> Result<()> {
    let missing = || Error::shape("training", "gradients of another step");
    let gradients = step.blocks.get(block).ok_or_else(missing)?;
    if let Some(norm) = &mut state.norm {
        let shared = step.blocks.iter().filter(|other| other.spec.norm == state.spec.norm);
        norm.set_gradients(gpu, &shared.map(|other| &other.norm).collect::<Vec<&AffineGradients>>())?;
    }
    if let Some(norm) = &mut state.norm_after {
        norm.set_gradients(gpu, &[&gradients.norm_after])?;
    }
    for (norm, gradients) in state.head_norms.iter_mut().flatten().zip(&gradients.head_norms) {
        norm.set_gradients(gpu, &[gradients])?;
    }
    state.linears.iter_mut().zip(&gradients.linears).try_for_each(|(state, gradients)| set_linear(state, gradients))
}

fn set_linear(state: &mut LinearState, gradients: &LinearGradients) -> Result<()> {
    for (parameter, gradient) in state.low_rank.iter_mut().flatten().zip(&gradients.low_rank) {
        parameter.set_gradient(gradient.as_ref())?;
    }
    if let Some(weight) = &mut state.weight {
        weight.set_gradient(gradients.affine.weight.as_ref())?;
    }
    if let Some(bias) = &mut state.bias {
        bias.set_gradient(gradients.affine.bias.as_ref())?;
    }
    Ok(())
}
