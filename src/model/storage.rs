//! How checkpoints store what the model knows in one layout only: which rows of a stored tensor hold a weight.
//!
//! The model has q | k | v and gate | up as weights of their own, `[out, in]`, and the coordinates of a head that turn
//! together half of what turns apart. Checkpoints fuse some of them, one after the other or group by group, store
//! GPT-2's transposed, or have coordinates that turn together side by side. [`rows`] undoes the order of rows when a
//! weight is read, and [`scatter`] redoes it when one is written; they are inverse to each other.

use std::ops::Range;

use super::{
    architecture::{Order, Role, Weight},
    layer_spec::LayerSpec,
};

/// Rows of a stored tensor, in the order of the weight that they hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rows {
    /// Consecutive ones.
    Run(Range<usize>),
    Listed(Vec<usize>),
}

impl Rows {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Run(range) => range.len(),
            Self::Listed(rows) => rows.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The stored row of a row of the weight.
    pub fn stored(&self, row: usize) -> usize {
        match self {
            Self::Run(range) => range.start + row,
            Self::Listed(rows) => rows[row],
        }
    }

    /// Values of the weight's rows, in the order that these are stored in.
    pub fn in_stored_order<T: Copy>(&self, values: &[T]) -> Vec<T> {
        let mut order: Vec<usize> = (0..values.len().min(self.len())).collect();
        order.sort_by_key(|&row| self.stored(row));
        order.into_iter().map(|row| values[row]).collect()
    }

    /// The stored rows of some rows of the weight, in runs of consecutive ones.
    pub fn runs(&self, rows: Range<usize>) -> Vec<Range<usize>> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        match self {
            Self::Run(range) => runs.push(range.start + rows.start..range.start + rows.end),
            Self::Listed(listed) => {
                for &row in &listed[rows] {
                    match runs.last_mut() {
                        Some(last) if last.end == row => last.end += 1,
                        _ => runs.push(row..row + 1),
                    }
                }
            }
        }
        runs
    }
}

/// The rows of `weight` that hold `role` in a layer; `pairs` of each head's coordinates turn, and are stored side by
/// side where it is given.
pub fn rows(weight: &Weight, role: Role, layer: &LayerSpec, pairs: Option<usize>) -> Rows {
    let before = weight.holds.iter().take_while(|held| **held != role);
    let first: usize = before.map(|held| layer.rows(*held)).sum();
    let count = layer.rows(role);
    let rotary = pairs.filter(|_| matches!(role, Role::Query | Role::Key));
    if weight.order == Order::Concatenated && rotary.is_none() {
        return Rows::Run(first..first + count);
    }
    let (h, group) = (layer.head_dim, layer.heads / layer.kv_heads.max(1));
    let head_start = |head: usize| match (weight.order, role) {
        (Order::Concatenated, _) => first + head * h,
        (Order::Paired, Role::Query) => 2 * head * h,
        (Order::Paired, _) => (2 * head + 1) * h,
        (Order::Grouped, Role::Query) => (head / group * (group + 2) + head % group) * h,
        (Order::Grouped, Role::Key) => (head * (group + 2) + group) * h,
        (Order::Grouped, _) => (head * (group + 2) + group + 1) * h,
    };
    let within = |j: usize| rotary.map_or(j, |pairs| side_by_side(j, pairs));
    Rows::Listed((0..count).map(|row| head_start(row / h) + within(row % h)).collect())
}

/// Where a coordinate of a head stands if those that turn together, `j` and `j + pairs`, are side by side.
pub fn side_by_side(j: usize, pairs: usize) -> usize {
    match j {
        j if j < pairs => 2 * j,
        j if j < 2 * pairs => 2 * (j - pairs) + 1,
        j => j,
    }
}

/// Puts the rows of a weight, each of `width` values, where the stored tensor has them.
pub fn scatter(rows: &Rows, values: &[f32], width: usize, stored: &mut [f32]) {
    for (row, values) in values.chunks_exact(width).enumerate() {
        stored[rows.stored(row) * width..][..width].copy_from_slice(values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::architecture::{ARCHITECTURES, BASE, Bias, Layout, Space};

    fn layer(heads: usize, kv_heads: usize, head_dim: usize) -> LayerSpec {
        LayerSpec { heads, kv_heads, head_dim, intermediate_size: 5, ..LayerSpec::default() }
    }

    fn weight(holds: &'static [Role], order: Order) -> Weight {
        Weight {
            name: "w",
            holds,
            order,
            reads: Space::Residual,
            writes: Space::Heads,
            layout: Layout::Linear,
            bias: Bias::Never,
        }
    }

    #[test]
    fn what_scatter_stores_rows_finds_again_and_nothing_is_left_out() {
        let qkv: &[Role] = &[Role::Query, Role::Key, Role::Value];
        let gate_up: &[Role] = &[Role::Gate, Role::Up];
        // Groups of one and of several, heads of odd width, all, some and none of a head rotary.
        for (heads, kv_heads, head_dim) in [(4, 4, 3), (6, 2, 4), (3, 1, 5), (1, 1, 2)] {
            let layer = layer(heads, kv_heads, head_dim);
            let gated: &[Role] = &[Role::Query, Role::OutputGate];
            for (holds, order) in [
                (qkv, Order::Concatenated),
                (qkv, Order::Grouped),
                (gate_up, Order::Concatenated),
                (gated, Order::Paired),
            ] {
                for pairs in [None, Some(1), Some(head_dim / 2)] {
                    let (weight, width) = (weight(holds, order), 2);
                    let total: usize = holds.iter().map(|role| layer.rows(*role)).sum();
                    let mut stored = vec![-1.0; total * width];
                    let mut next = 0.0;
                    let mut parts = Vec::new();
                    for role in holds {
                        let rows = rows(&weight, *role, &layer, pairs);
                        let values: Vec<f32> = (0..rows.len() * width)
                            .map(|_| {
                                next += 1.0;
                                next
                            })
                            .collect();
                        scatter(&rows, &values, width, &mut stored);
                        parts.push((rows, values));
                    }
                    let context = format!("{layer:?} {holds:?} {order:?} {pairs:?}");
                    assert!(stored.iter().all(|value| *value > 0.0), "{context}: a row was not written");
                    for (rows, values) in parts {
                        let runs = rows.runs(0..rows.len());
                        let read = runs.into_iter().flat_map(|run| &stored[run.start * width..run.end * width]);
                        assert!(read.eq(&values), "{context}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_group_is_its_queries_then_its_key_then_its_value() {
        let (weight, layer) = (weight(&[Role::Query, Role::Key, Role::Value], Order::Grouped), layer(4, 2, 1));
        let listed = |role| rows(&weight, role, &layer, None).runs(0..layer.rows(role));
        assert_eq!(listed(Role::Query), [0..2, 4..6]);
        assert_eq!(listed(Role::Key), [2..3, 6..7]);
        assert_eq!(listed(Role::Value), [3..4, 7..8]);
    }

    #[test]
    fn a_pair_is_a_query_then_the_gate_of_its_result() {
        let (weight, layer) = (weight(&[Role::Query, Role::OutputGate], Order::Paired), layer(3, 1, 2));
        let listed = |role| rows(&weight, role, &layer, None).runs(0..layer.rows(role));
        assert_eq!(listed(Role::Query), [0..2, 4..6, 8..10]);
        assert_eq!(listed(Role::OutputGate), [2..4, 6..8, 10..12]);
    }

    #[test]
    fn a_row_that_forgets_its_forms_has_none() {
        assert!(!BASE.forms.stock && BASE.forms.gguf.is_none() && BASE.forms.code.is_none());
        assert!(ARCHITECTURES.iter().all(|row| !row.model_type.is_empty() && !row.blocks.is_empty()));
    }
}
