//! Which groups leave: the least important ones, layer by layer or all in one row.

use serde::{Deserialize, Serialize};

use crate::model::{Kept, LayerSpec, without_lowest};

/// How many of `left` groups leave, each of `width` channels, when of `all` that there were a share is to be gone: of C
/// channels, C − int(C · (1 − ratio)), in whole groups; never the last one.
pub fn leaving(all: usize, left: usize, width: usize, ratio: f64) -> usize {
    let stay = ((all * width) as f64 * (1.0 - ratio)) as usize;
    ((left * width).saturating_sub(stay) / width.max(1)).min(left.saturating_sub(1))
}

/// What the groups of a layer matter: of its key-value heads with their queries, and of its MLP channels; or of the
/// experts of a mixture.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerImportance {
    pub layer: usize,
    pub attention: Vec<f64>,
    pub mlp: Vec<f64>,
    /// Of single queries, where several read a key-value head.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub queries: Vec<f64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub experts: Vec<f64>,
}

impl LayerImportance {
    /// Takes over what `newer` has of the groups that are `kept`: of each group, the value that it was last ranked by.
    pub fn update(&mut self, newer: &Self, kept: &Kept) {
        let take = |own: &mut Vec<f64>, newer: &[f64], kept: &[usize]| {
            own.resize(newer.len(), 0.0);
            // Of what has no groups, none are ranked.
            let ranked = kept.iter().filter(|&&group| group < newer.len());
            ranked.for_each(|&group| own[group] = newer[group]);
        };
        take(&mut self.attention, &newer.attention, &kept.key_value_heads);
        take(&mut self.mlp, &newer.mlp, &kept.mlp_channels);
        take(&mut self.queries, &newer.queries, &kept.query_heads);
    }
}

/// What is to be cut of the layers that may be cut.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    /// The share of the groups that is to be gone after this round.
    pub ratio: f64,
    pub attention: bool,
    pub mlp: bool,
    /// Whether all groups of all layers are in one row.
    pub global: bool,
}

/// Takes the least important groups out of what is `kept` of the layers that `importances` are of; `specs` are the
/// sizes of all layers of the original.
pub fn cut(share: Share, specs: &[LayerSpec], importances: &[LayerImportance], kept: &mut [Kept]) {
    if share.global {
        return cut_globally(share, specs, importances, kept);
    }
    for importance in importances {
        let (spec, kept) = (&specs[importance.layer], &mut kept[importance.layer]);
        // A layer without attention has no heads.
        if share.attention && !importance.attention.is_empty() {
            let left = kept.key_value_heads.len();
            let leave = leaving(spec.kv_heads, left, spec.head_dim, share.ratio);
            set_heads(kept, spec, without_lowest(&importance.attention, &kept.key_value_heads, leave));
        }
        if share.mlp {
            let leave = leaving(spec.intermediate_size, kept.mlp_channels.len(), 1, share.ratio);
            kept.mlp_channels = without_lowest(&importance.mlp, &kept.mlp_channels, leave);
        }
    }
}

/// The key-value heads that stay, and with each the queries that read it.
fn set_heads(kept: &mut Kept, spec: &LayerSpec, heads: Vec<usize>) {
    let group = spec.heads / spec.kv_heads.max(1);
    kept.query_heads = heads.iter().flat_map(|head| head * group..(head + 1) * group).collect();
    kept.key_value_heads = heads;
}

fn cut_globally(share: Share, specs: &[LayerSpec], importances: &[LayerImportance], kept: &mut [Kept]) {
    // (importance, layer, whether it is a head, number).
    let mut groups = Vec::new();
    let mut all = 0;
    for LayerImportance { layer, attention, mlp, .. } in importances {
        if share.attention && !attention.is_empty() {
            all += specs[*layer].kv_heads;
            groups.extend(kept[*layer].key_value_heads.iter().map(|&head| (attention[head], *layer, true, head)));
        }
        if share.mlp {
            all += specs[*layer].intermediate_size;
            groups.extend(kept[*layer].mlp_channels.iter().map(|&channel| (mlp[channel], *layer, false, channel)));
        }
    }
    let mut leave = leaving(all, groups.len(), 1, share.ratio);
    groups.sort_by(|a, b| a.0.total_cmp(&b.0));
    for (_, layer, is_head, number) in groups {
        if leave == 0 {
            return;
        }
        let of = &mut kept[layer];
        let list = if is_head { of.key_value_heads.clone() } else { of.mlp_channels.clone() };
        // The last one of its layer stays, whatever it matters.
        if list.len() == 1 {
            continue;
        }
        let stay = list.into_iter().filter(|&other| other != number).collect();
        if is_head {
            set_heads(of, &specs[layer], stay)
        } else {
            of.mlp_channels = stay
        }
        leave -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(heads: usize, kv_heads: usize, head_dim: usize, intermediate_size: usize) -> LayerSpec {
        LayerSpec { heads, kv_heads, head_dim, intermediate_size, ..LayerSpec::default() }
    }

    #[test]
    fn as_many_leave_as_the_reference_has() {
        // LLaMA-7B at 25 %: 24 of 32 heads and 8256 of 11008 channels stay; one of 8 heads goes at 20 %.
        assert_eq!((leaving(32, 32, 128, 0.25), leaving(11008, 11008, 1, 0.25)), (8, 2752));
        assert_eq!((leaving(8, 8, 64, 0.2), leaving(8, 8, 64, 0.1)), (1, 0));
        // int(14336 · 0.75), and in two rounds.
        assert_eq!(leaving(14336, 14336, 1, 0.25), 3584);
        assert_eq!((leaving(172, 172, 1, 0.1), leaving(172, 155, 1, 0.2)), (18, 18));
        assert_eq!((leaving(1, 1, 4, 0.9), leaving(4, 4, 1, 1.0)), (0, 3), "never the last one");
    }

    #[test]
    fn what_has_left_keeps_what_it_was_ranked_by() {
        let (query_heads, key_value_heads, mlp_channels) = (vec![1], vec![1], vec![0, 2]);
        let kept = Kept { query_heads, key_value_heads, mlp_channels, ..Kept::default() };
        let mut all = LayerImportance {
            layer: 0,
            attention: vec![1.0, 2.0],
            mlp: vec![3.0, 4.0, 5.0],
            ..LayerImportance::default()
        };
        all.update(
            &LayerImportance {
                layer: 0,
                attention: vec![0.0, 6.0],
                mlp: vec![7.0, 0.0, 8.0],
                ..LayerImportance::default()
            },
            &kept,
        );
        assert_eq!(
            all,
            LayerImportance {
                layer: 0,
                attention: vec![1.0, 6.0],
                mlp: vec![7.0, 4.0, 8.0],
                ..LayerImportance::default()
            }
        );
    }

    #[test]
    fn key_value_heads_leave_with_their_queries() {
        let specs = [spec(6, 3, 2, 4)];
        let mut kept = [Kept::all(0, &specs[0])];
        let importances = [LayerImportance {
            layer: 0,
            attention: vec![2.0, 1.0, 3.0],
            mlp: vec![4.0, 3.0, 2.0, 1.0],
            ..LayerImportance::default()
        }];
        let share = Share { ratio: 0.34, attention: true, mlp: true, global: false };
        cut(share, &specs, &importances, &mut kept);
        let Kept { query_heads, key_value_heads, mlp_channels, .. } = &kept[0];
        assert_eq!((query_heads.as_slice(), key_value_heads.as_slice()), (&[0, 1, 4, 5][..], &[0, 2][..]));
        assert_eq!(mlp_channels, &[0, 1]);
    }

    #[test]
    fn one_row_of_all_groups_leaves_at_least_one_of_each_kind_in_each_layer() {
        let specs = [spec(2, 2, 2, 3), spec(2, 2, 2, 3)];
        let mut kept = [Kept::all(0, &specs[0]), Kept::all(1, &specs[1])];
        let importance = |layer, by: f64| LayerImportance {
            layer,
            attention: vec![by, 2.0 * by],
            mlp: vec![by; 3],
            ..LayerImportance::default()
        };
        let share = Share { ratio: 0.6, attention: true, mlp: true, global: true };
        cut(share, &specs, &[importance(0, 1.0), importance(1, 10.0)], &mut kept);
        // Six of ten: three of layer 0, whose last head and channel stay, and three of layer 1.
        assert_eq!((kept[0].key_value_heads.as_slice(), kept[0].mlp_channels.as_slice()), (&[1][..], &[2][..]));
        let left = kept[1].key_value_heads.len() + kept[1].mlp_channels.len();
        assert_eq!(left, 2);
    }
}
