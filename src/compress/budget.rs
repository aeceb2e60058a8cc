//! How much of each axis to cut: the sizes of least predicted loss within the budget.

use std::collections::HashMap;

use super::{
    axis::{Axis, Goal},
    curve::Curves,
    plan::{Plan, Width},
};
use crate::{
    error::{Error, Result},
    model::{Config, DeltaNet, Resize},
    stream::Types,
};

/// An axis that cannot be cut without removing this many times what was asked for is measured at less.
const COARSE: f64 = 1.25;

/// Every combination of sizes that loaders take, and what it would weigh.
pub struct Space<'a> {
    config: &'a Config,
    types: &'a Types,
    goal: Goal,
    /// Which layers stay when 0, 1, 2 … leave.
    stay: Vec<Vec<usize>>,
    /// The least width of the residual stream that there are coordinates for.
    narrowest: usize,
}

/// What a model weighs, by its layers and its units, the channels of its MLPs or the experts of its mixtures:
/// `ends + Σ_layers (layer + unit · units)`.
struct Weight {
    ends: f64,
    /// Of each layer.
    layers: Vec<f64>,
    /// Of a unit of each layer.
    units: Vec<f64>,
}

impl Weight {
    fn of(&self, layers: &[usize], units: usize) -> f64 {
        let own = |&layer: &usize| self.layers[layer] + self.units[layer] * units as f64;
        self.ends + layers.iter().map(own).sum::<f64>()
    }
}

impl<'a> Space<'a> {
    /// Of a model of which `stay[n]` are left when n layers leave.
    pub fn new(config: &'a Config, types: &'a Types, goal: Goal, stay: Vec<Vec<usize>>) -> Self {
        Self { config, types, goal, stay, narrowest: 1 }
    }

    /// The same without widths below this.
    #[must_use]
    pub fn not_below(self, narrowest: usize) -> Self {
        Self { narrowest, ..self }
    }

    /// What the result may weigh.
    fn most(&self) -> f64 {
        match self.goal {
            Goal::Parameters(share) => (1.0 - share) * self.config.parameters() as f64,
            Goal::Bytes(bytes) => bytes as f64,
        }
    }

    /// Whether the model as it is is within the budget.
    pub fn holds_all(&self) -> bool {
        self.holds(&Resize::whole(self.config))
    }

    fn weigh(&self, sizes: Resize) -> Result<f64> {
        let plan = Plan::new(self.config, sizes, Width::default(), self.types)?;
        Ok(match self.goal {
            Goal::Parameters(_) => plan.parameters as f64,
            Goal::Bytes(_) => plan.byte_len() as f64,
        })
    }

    /// The axis whose units are counted: the one that can be cut most finely.
    fn unit(&self) -> Axis {
        if self.config.is_mixture() { Axis::Experts } else { Axis::Mlp }
    }

    /// Sizes with this many units.
    fn with_units(&self, sizes: &Resize, units: usize) -> Resize {
        match self.unit() {
            Axis::Experts => Resize { experts: Some(units), ..sizes.clone() },
            _ => Resize { intermediate_size: units, ..sizes.clone() },
        }
    }

    /// Of models of this width and these heads; an error where loaders do not take them.
    fn weight(&self, sizes: &Resize) -> Result<Weight> {
        let unit = self.unit();
        let units = sizes.experts.filter(|_| unit == Axis::Experts).unwrap_or(sizes.intermediate_size);
        let fewest = self.sizes(unit).last().copied().unwrap_or(units);
        let fewer = if unit == Axis::Experts { fewest } else { (units / 2).max(1) };
        let all = self.weigh(sizes.clone())?;
        let with_fewer = self.weigh(self.with_units(sizes, fewer))?;
        // Layers that are no mixtures have no experts.
        let has_units = |layer: usize| unit == Axis::Mlp || self.config.layers[layer].experts.is_some();
        let count = sizes.layers.iter().filter(|&&layer| has_units(layer)).count();
        let removed = (units - fewer) as f64;
        let each = if removed > 0.0 { (all - with_fewer) / count as f64 / removed } else { 0.0 };
        let of_unit = |layer: usize| if has_units(layer) { each } else { 0.0 };
        // Layers of a kind weigh the same; the first one cannot leave.
        let like = |layer: usize| (self.config.layers[layer].delta, self.config.layers[layer].experts.is_some());
        let mut kinds: Vec<((Option<DeltaNet>, bool), f64)> = Vec::new();
        for layer in (1..sizes.layers.len()).rev() {
            if !kinds.iter().any(|(kind, _)| *kind == like(layer)) {
                let layers = (0..sizes.layers.len()).filter(|other| *other != layer).collect();
                // Not every model can lose its last layer; a fraction of all of them will do.
                let own = self.weigh(Resize { layers, ..sizes.clone() }).map_or(0.0, |without| all - without);
                kinds.push((like(layer), own - of_unit(layer) * units as f64));
            }
        }
        let own = |layer: usize| kinds.iter().find(|(kind, _)| *kind == like(layer)).map_or(0.0, |(_, own)| *own);
        let layers = sizes.layers.iter().map(|&layer| own(layer)).collect();
        let of_units = sizes.layers.iter().map(|&layer| of_unit(layer)).collect();
        let whole = Weight { ends: 0.0, layers, units: of_units };
        Ok(Weight { ends: all - whole.of(&sizes.layers, units), ..whole })
    }

    /// The sizes that an axis can have, whole first.
    fn sizes(&self, axis: Axis) -> Vec<usize> {
        let whole = Resize::whole(self.config);
        match axis {
            Axis::Width => {
                let interval = width_interval(self.config);
                let widths = (1..).map(|steps| steps * interval).take_while(|&width| width < self.config.hidden_size);
                let mut widths: Vec<usize> = widths
                    .filter(|width| {
                        let kept = width - self.config.stock_padding().min(*width);
                        4 * width >= self.config.hidden_size && kept >= self.narrowest
                    })
                    .collect();
                widths.push(self.config.hidden_size);
                widths.reverse();
                widths
            }
            Axis::Mlp => {
                let all = whole.intermediate_size;
                let grid = channel_interval(all);
                let mut sizes: Vec<usize> = (1..).map(|steps| steps * grid).take_while(|&size| size < all).collect();
                sizes.retain(|size| 16 * size >= all);
                sizes.push(all);
                sizes.reverse();
                sizes
            }
            Axis::Heads => (1..=whole.heads / whole.kv_heads).rev().collect(),
            Axis::KvHeads => (1..=whole.kv_heads).rev().collect(),
            Axis::Layers => self.stay.iter().map(Vec::len).collect(),
            Axis::Experts => {
                let experts = self.config.layers.iter().find_map(|layer| layer.experts);
                experts.map_or(vec![1], |experts| (experts.chosen..=experts.count).rev().collect())
            }
        }
    }

    /// All sizes within the budget that are cut on some of these axes, each with as many channels, or experts, as the
    /// budget leaves.
    pub fn within(&self, axes: &[Axis]) -> Vec<Resize> {
        let whole = Resize::whole(self.config);
        let of = |axis: Axis| {
            let sizes = self.sizes(axis);
            if axes.contains(&axis) { sizes } else { sizes.into_iter().take(1).collect() }
        };
        let (units, most) = (of(self.unit()), self.most());
        let mut found = Vec::new();
        for width in of(Axis::Width) {
            for kv_heads in of(Axis::KvHeads) {
                for queries in of(Axis::Heads) {
                    let sizes = Resize {
                        width: (width != self.config.hidden_size).then_some(width),
                        heads: queries * kv_heads,
                        kv_heads,
                        ..whole.clone()
                    };
                    let Ok(weight) = self.weight(&sizes) else { continue };
                    for left_out in 0..of(Axis::Layers).len() {
                        let of_units = |units: usize| weight.of(&self.stay[left_out], units);
                        // Rounding of the differences above is far below a parameter.
                        if let Some(&units) = units.iter().find(|&&units| of_units(units) <= most + 0.5) {
                            let layers = self.stay[left_out].clone();
                            found.push(Resize { layers, ..self.with_units(&sizes, units) });
                        }
                    }
                }
            }
        }
        found
    }

    /// The sizes of a model that is cut on one axis alone, to a size there that is the one of this number.
    fn at(&self, axis: Axis, number: usize, size: usize) -> Resize {
        let whole = Resize::whole(self.config);
        let queries = whole.heads / whole.kv_heads;
        match axis {
            Axis::Width => Resize { width: Some(size), ..whole },
            Axis::Mlp => Resize { intermediate_size: size, ..whole },
            Axis::Heads => Resize { heads: size * whole.kv_heads, ..whole },
            Axis::KvHeads => Resize { heads: size * queries, kv_heads: size, ..whole },
            Axis::Layers => Resize { layers: self.stay[number].clone(), ..whole },
            Axis::Experts => Resize { experts: Some(size), ..whole },
        }
    }

    /// The sizes of one axis alone that come nearest to removing `share` of what the goal asks to be removed; of all of
    /// it, those that do and remove least, unless that is [`COARSE`] times as much.
    pub fn alone(&self, axis: Axis, share: f64) -> Option<Resize> {
        let whole = Resize::whole(self.config);
        let all = self.weigh(whole).ok()?;
        let asked = all - self.most();
        let removed = self.sizes(axis).into_iter().enumerate().skip(1).filter_map(|(number, size)| {
            let sizes = self.at(axis, number, size);
            Some((all - self.weigh(sizes.clone()).ok()?, sizes))
        });
        let removed: Vec<(f64, Resize)> = removed.collect();
        let enough = |of: &&(f64, Resize)| of.0 >= asked - 0.5 && of.0 <= COARSE * asked;
        let least = removed.iter().filter(enough).min_by(|a, b| a.0.total_cmp(&b.0)).filter(|_| share >= 1.0);
        let off = |of: &(f64, Resize)| (of.0 - share * asked).abs();
        let found = least.or_else(|| removed.iter().min_by(|a, b| off(a).total_cmp(&off(b))))?;
        Some(found.1.clone())
    }

    /// Whether sizes are within the budget.
    pub fn holds(&self, sizes: &Resize) -> bool {
        // A share of a number of parameters is rounded.
        self.weigh(sizes.clone()).is_ok_and(|of| of <= self.most() + 0.5)
    }

    /// Whether an axis can be cut at all.
    ///
    /// # Errors
    /// [`Error::Usage`] that says why not.
    pub fn can_cut(&self, axis: Axis) -> Result<()> {
        let refuse = |reason: &str| Err(Error::Usage(format!("--axes {axis}: {reason}")));
        let whole = Resize::whole(self.config);
        if axis == Axis::Width {
            self.config.can_slice().or_else(|error| refuse(&error.to_string()))?;
        }
        if axis == Axis::Width && self.config.tie_word_embeddings && !self.config.can_stay_tied() {
            return refuse(
                "the head is the embedding, and with a layer norm before it the two would be different matrices in a \
                 narrower model; run --basis shared unties them",
            );
        }
        if axis == Axis::Experts && !self.config.is_mixture() {
            return refuse("this model has none");
        }
        if axis == Axis::Heads && whole.heads / whole.kv_heads < 2 {
            let instead = match self.can_cut(Axis::KvHeads) {
                Ok(()) => "; --axes kv-heads takes heads together with their keys and values",
                Err(_) => self.by_pruning(axis),
            };
            let alone = "no two query heads share a key and a value, and all of a group cannot leave";
            return refuse(&format!("{alone}{instead}"));
        }
        let first = self.sizes(axis).into_iter().enumerate().skip(1).map(|(number, size)| self.at(axis, number, size));
        let mut reason = None;
        for sizes in first {
            match self.weigh(sizes) {
                Ok(_) => return Ok(()),
                Err(Error::Usage(why)) => reason = Some(why),
                Err(other) => return Err(other),
            }
        }
        match reason {
            Some(reason) => refuse(&format!("{reason}{}", self.by_pruning(axis))),
            None if axis == Axis::Experts => refuse("a token goes to all that a layer has, and so they stay"),
            None => refuse("there is only one"),
        }
    }

    /// What can cut an axis where no ordinary model has fewer of it.
    fn by_pruning(&self, axis: Axis) -> &'static str {
        match axis {
            Axis::Mlp if !self.config.is_mixture() => "; `prune --mlp` takes them in a form of its own",
            Axis::Heads | Axis::KvHeads if self.config.can_cut_heads().is_ok() && !self.config.is_mixture() => {
                "; `prune --attention` takes them in a form of its own"
            }
            _ => "",
        }
    }

    /// Of the sizes within the budget, those of least predicted loss for each set of axes that is cut, best first; the
    /// whole alone where that is within it.
    ///
    /// # Errors
    /// [`Error::Usage`] if no sizes are within the budget.
    pub fn allocate(&self, axes: &[Axis], curves: &Curves) -> Result<Vec<(f64, Resize)>> {
        let mut best: HashMap<Vec<Axis>, (f64, Resize)> = HashMap::new();
        for sizes in self.within(axes) {
            let depths = axes.iter().map(|&axis| (axis, axis.depth(self.config, &sizes)));
            let cut: Vec<(Axis, f64)> = depths.filter(|(_, depth)| *depth > 0.0).collect();
            if cut.is_empty() {
                return Ok(vec![(0.0, sizes)]);
            }
            let Some(loss) = curves.predict(&cut) else { continue };
            let key = cut.iter().map(|(axis, _)| *axis).collect();
            let better = best.get(&key).is_none_or(|(least, other)| {
                loss < *least || (loss == *least && weight_order(&sizes) > weight_order(other))
            });
            if better {
                best.insert(key, (loss, sizes));
            }
        }
        let mut found: Vec<(f64, Resize)> = best.into_values().collect();
        found.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| weight_order(&a.1).cmp(&weight_order(&b.1))));
        if found.is_empty() { Err(self.unreachable(axes)) } else { Ok(found) }
    }

    fn unreachable(&self, axes: &[Axis]) -> Error {
        let names: Vec<String> = axes.iter().map(Axis::to_string).collect();
        let asked = match self.goal {
            Goal::Parameters(share) => format!("{:+.1} % of the parameters", -100.0 * share),
            Goal::Bytes(bytes) => format!("{bytes} bytes"),
        };
        let others = Axis::ALL.iter().filter(|axis| !axes.contains(axis) && self.can_cut(**axis).is_ok());
        let others: Vec<String> = others.map(Axis::to_string).collect();
        let more =
            if others.is_empty() { String::new() } else { format!(", or allow --axes {}, too", others.join(",")) };
        Error::Usage(format!("no sizes within {asked} by cutting {}; ask for less{more}", names.join(", ")))
    }
}

/// Ties are broken by the sizes, never by chance.
fn weight_order(sizes: &Resize) -> (Option<usize>, [usize; 4], Vec<usize>) {
    let Resize { width, heads, kv_heads, intermediate_size, experts, .. } = *sizes;
    (width, [kv_heads, heads, intermediate_size, experts.unwrap_or(0)], sizes.layers.clone())
}

/// What the width must be a multiple of, for other programs to take it; where it is fine enough to meet a budget, also
/// for llama.cpp to quantise it, whose blocks are 32 values of a row, or for kernels.
fn width_interval(config: &Config) -> usize {
    let intervals = [(32, 16), (8, 32)].map(|(grid, steps)| (config.stock_interval_on(grid), steps));
    let fine = intervals.iter().find(|(interval, steps)| steps * interval <= config.hidden_size);
    fine.map_or(config.stock_interval(), |(interval, _)| *interval)
}

/// What the channels of an MLP are a multiple of, fine enough to meet a budget.
pub(super) fn channel_interval(all: usize) -> usize {
    [64, 32, 16, 8, 4, 2].into_iter().find(|&grid| all >= 48 * grid).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{checkpoint::Dtype, model::Model};

    #[test]
    fn widths_can_be_quantised_where_that_is_fine_enough() -> Result<()> {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/llama_mha_untied");
        let mut config = Model::open(&fixture)?.config().clone();
        // Each head has its share of the width.
        for (width, heads, expected) in
            [(2048, 32, 32), (512, 4, 32), (511, 4, 8), (255, 4, 4), (1536, 12, 96), (768, 12, 24), (576, 9, 9)]
        {
            (config.hidden_size, config.layers[0].heads) = (width, heads);
            assert_eq!(width_interval(&config), expected, "{width}, {heads} heads");
        }
        Ok(())
    }

    #[test]
    fn an_axis_alone_removes_all_that_is_asked_for_unless_that_is_much_more() -> Result<()> {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/llama_mha_untied");
        let model = Model::open(&fixture)?;
        let (config, types) = (model.config(), Types::One(Dtype::F32));
        let stay = || [3, 2, 1].map(|left| (0..left).collect()).to_vec();
        let (mut within, mut beyond) = (0, 0);
        for percent in 1..50 {
            let space = Space::new(config, &types, Goal::Parameters(f64::from(percent) / 100.0), stay());
            let whole = space.weigh(Resize::whole(config))?;
            let removed = |sizes: &Resize| space.weigh(sizes.clone()).map(|left| whole - left);
            let asked = whole - space.most();
            for axis in [Axis::Mlp, Axis::KvHeads, Axis::Layers] {
                let all = space.sizes(axis).into_iter().enumerate().skip(1);
                let all: Vec<Resize> = all.map(|(number, size)| space.at(axis, number, size)).collect();
                let Some(found) = space.alone(axis, 1.0) else { continue };
                for other in all.iter().filter(|other| space.holds(other)) {
                    let (other, found_removes) = (removed(other)?, removed(&found)?);
                    if space.holds(&found) {
                        assert!(other >= found_removes, "{percent} %, {axis}: {found:?}");
                        within += 1;
                    } else {
                        assert!(other > COARSE * asked, "{percent} %, {axis}: {found:?}");
                        beyond += 1;
                    }
                }
                // Of a part of it, what comes nearest.
                if let Some(half) = space.alone(axis, 0.5) {
                    let off = |sizes: &Resize| removed(sizes).map(|removed| (removed - 0.5 * asked).abs());
                    for other in &all {
                        assert!(off(&half)? <= off(other)?, "{percent} %, {axis}: {half:?}");
                    }
                }
            }
        }
        assert!(within > 0 && beyond > 0, "{within} and {beyond}");
        Ok(())
    }
}
