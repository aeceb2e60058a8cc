//! Is what is selected and fitted on the GPU what the formulas say in f64?

use nalgebra::DMatrix;
use slicegpt_gpu::{
    compress::{Sensing, Sensitivities},
    model::PLACES,
    reference::{Left, Network},
    stream::Sitting,
};

use super::*;

/// Fixtures whose width is cut, and why.
const NARROWER: [(&str, &str); 8] = [
    ("llama_mha_untied", "a head that is fitted"),
    ("llama_gqa_tied", "a tied head"),
    ("qwen2_gqa_tied", "a tied head, biases of reads"),
    ("granite_tied", "a tied head, factors of everything"),
    ("smollm3_listed", "layers without positions"),
    ("phi_gqa", "layer norm, parallel blocks that share a bias"),
    ("phi3_gqa", "fused weights"),
    ("gemma_tied", "weights of norms less one, a scaled embedding"),
];

/// How much the model minds what is lost of each direction of what a step makes, and of tokens by their places.
type Counts = (Option<DMatrix<f64>>, [f64; PLACES]);

/// That of the steps of each layer, as the work finds it with these options.
fn sensed(gpu: &Gpu, model: &Model, rows: &[Vec<u32>], options: &Options) -> Vec<Vec<Counts>> {
    let temporary = tempfile::tempdir().expect("a directory");
    let directory = OutputDirectory::create(&temporary.path().join("sums"), false).expect("an output");
    let memory = MemoryPlan::unlimited(None);
    let sensing = Sensing { model, rows, memory, directory: &directory, progress: &Silent };
    let sensed = options
        .senses()
        .then(|| sensing.run(gpu, options.seed, &mut Sitting::whole()).expect("sums").expect("all of them"));
    let counts = |layer: usize, step| {
        let places = Sensitivities::places(sensed.as_ref(), layer, step).map(f64::from);
        let m = sensed.as_ref().and_then(|sensed| sensed.matrix(layer, step).expect("sums"));
        (m.map(|m| DMatrix::from_fn(m.nrows(), m.ncols(), |i, j| m[(i, j)])), places)
    };
    let config = model.config();
    (0..config.layers.len()).map(|layer| config.layer_steps(layer).map(|step| counts(layer, step)).collect()).collect()
}

/// The largest difference of two models' logits, by the largest of the first, and what the first has lost.
fn differences(rows: &[Vec<u32>], twin: &Network, made: &Network, dense: &Network) -> (f64, f64) {
    let mut worst: f64 = 0.0;
    for row in rows {
        let (expected, found) = (twin.logits(row).expect("logits"), made.logits(row).expect("logits"));
        let off = support::worst((&expected - found).iter().map(|off| off.abs()));
        worst = worst.max(off / expected.amax());
    }
    let lost = (dense.logits(&rows[0]).expect("logits") - twin.logits(&rows[0]).expect("logits")).abs().max();
    (worst, lost)
}

#[test]
fn a_narrower_model_is_fitted_to_what_the_formulas_say() {
    let gpu = support::gpu();
    for (name, reason) in NARROWER {
        // Most of a final norm's weights are alike, as in trained models; some are not.
        let (_directory, model) = altered(name, |tensors| {
            let norm = if name.starts_with("phi_") { "model.final_layernorm.weight" } else { "model.norm.weight" };
            change(tensors, norm, |_, all| {
                let plain = if name.starts_with("gemma") { 1.0 } else { 0.0 };
                for (at, value) in all.iter_mut().enumerate() {
                    let usual = 1.5 + 0.02 * at as f32;
                    *value = [usual, usual, usual, -0.7, usual, 4.0][at % 6] - plain;
                }
            });
        });
        let rows = rows(&model, &[33, 31, 28, 34, 30]);
        let interval = model.config().stock_interval();
        let width = (model.config().hidden_size - 1) / interval * interval;
        let sizes = Resize { width: Some(width), ..Resize::whole(model.config()) };
        let goal = as_large_as(&model, sizes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let options =
            Options { effort: Effort::Quick, dtype: Types::One(Dtype::F32), ..options(&model, goal, &[Axis::Width]) };
        let Compressed { model: made, snapshot, .. } =
            compressed(&gpu, &model, &rows, &options).unwrap_or_else(|error| panic!("{name}: {error}"));
        let best = snapshot.written().expect("all is done").0;
        assert_eq!(best.sizes.width, Some(width), "{name}");
        let alpha = model.store.ends().expect("ends").final_norm.expect("a norm").weight;
        let alpha: Vec<f64> = alpha.iter().map(|&weight| f64::from(weight)).collect();
        let tied = made.config().tie_word_embeddings.then_some((alpha.as_slice(), best.basis.tolerance));
        let kept = width - made.config().stock_padding();
        let dense = Network::load(&model.store).expect("a network");
        let fused = Network::load_fused(&model.store).expect("a network");
        let sensed = sensed(&gpu, &model, &rows, &options);
        let steps = model.config().steps().len();
        let by_place = |point: usize| sensed[point / steps][point % steps].1;
        let twin = fused.narrowed(&rows, kept, tied, options.ridge, &by_place);
        let twin = twin.unwrap_or_else(|error| panic!("{name}: {error}"));
        let (worst, lost) = differences(&rows, &twin, &Network::load(&made.store).expect("a network"), &dense);
        println!("{name} ({reason}): logits within {worst:.1e}, {lost:.1e} lost");
        assert!(worst < 1e-5, "{name} ({reason}): logits differ by {worst:.1e}");
        assert!(lost > 1e-3, "{name} ({reason}): nothing was cut, which proves nothing");
    }
}

/// A fixture, what is cut of it, and why.
type Case = (&'static str, fn(Resize) -> Resize, &'static str);

const CASES: [Case; 23] = [
    ("llama_gqa_tied", |all| Resize { intermediate_size: 15, ..all }, "channels; a tied head"),
    ("llama_mha_untied", |all| Resize { layers: vec![0, 2], ..all }, "a layer, and a head that is fitted"),
    ("llama_gqa_tied", |all| Resize { heads: all.kv_heads, ..all }, "queries of each group"),
    ("llama_mha_untied", |all| Resize { heads: all.heads / 2, kv_heads: all.kv_heads / 2, ..all }, "groups"),
    ("llama_bias", |all| Resize { intermediate_size: 17, ..all }, "biases"),
    ("qwen3_tied", |all| Resize { heads: all.kv_heads, intermediate_size: 11, ..all }, "norms of queries and keys"),
    ("phi_gqa", |all| Resize { intermediate_size: 20, ..all }, "parallel blocks that share a bias; layer norm"),
    // Of its 96 channels six leave at a time (`linalg::subset`), and with 30 or 40 left one is another than where each
    // is chosen after the one before.
    ("gpt2_tied", |all| Resize { intermediate_size: 44, ..all }, "transposed weights, biases"),
    ("gpt_neox_parallel", |all| Resize { intermediate_size: 21, layers: vec![0], ..all }, "channels before a gap"),
    ("granite_tied", |all| Resize { intermediate_size: 13, ..all }, "factors of everything"),
    ("gemma2_no_caps", |all| Resize { intermediate_size: 13, heads: all.kv_heads, ..all }, "norms after blocks"),
    ("gemma3_tied", |all| Resize { layers: vec![0, 1, 2, 4, 5], ..all }, "a gap after a norm, two tables of angles"),
    ("qwen35_tied", |all| Resize { heads: all.kv_heads, intermediate_size: 15, ..all }, "gates; delta nets stay"),
    ("qwen35_tied", |all| Resize { layers: vec![0, 1], ..all }, "a delta net leaves"),
    ("olmo2_untied", |all| Resize { intermediate_size: 15, ..all }, "no norms before blocks"),
    ("qwen3_moe_normalised", |all| Resize { experts: Some(4), ..all }, "experts"),
    ("qwen3_moe_dense_between", |all| Resize { experts: Some(3), heads: all.kv_heads, ..all }, "and queries; dense"),
    ("qwen3_moe_top_1", |all| Resize { layers: vec![0], ..all }, "a layer with experts"),
    ("qwen2_moe_plain", |all| Resize { experts: Some(3), ..all }, "an expert that every token goes to"),
    ("mixtral_top_2", |all| Resize { experts: Some(3), layers: vec![0], ..all }, "experts before a gap"),
    ("olmoe_plain", |all| Resize { experts: Some(4), ..all }, "queries and keys normalised whole"),
    ("gpt_oss_plain", |all| Resize { experts: Some(3), ..all }, "sinks, biases, all experts in one tensor"),
    ("gpt_oss_plain", |all| Resize { experts: Some(4), layers: vec![0], ..all }, "the same before a gap"),
];

#[test]
fn what_is_selected_and_fitted_is_what_the_formulas_say() {
    let gpu = support::gpu();
    for (name, cut, reason) in CASES {
        let model = parity(name);
        let rows = rows(&model, &[33, 31, 28, 34, 30]);
        let sizes = cut(Resize::whole(model.config()));
        let axes: Vec<Axis> = Axis::ALL.into_iter().filter(|axis| axis.depth(model.config(), &sizes) > 0.0).collect();
        let goal = as_large_as(&model, sizes.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let options = Options { effort: Effort::Quick, dtype: Types::One(Dtype::F32), ..options(&model, goal, &axes) };
        let Compressed { model: made, snapshot, .. } =
            compressed(&gpu, &model, &rows, &options).unwrap_or_else(|error| panic!("{name}: {error}"));
        let (best, kept) = snapshot.written().expect("all is done");
        let sensed = sensed(&gpu, &model, &rows, &options);
        let dense = Network::load(&model.store).expect("a network");
        let fused = Network::load_fused(&model.store).expect("a network");
        let counts = |layer: usize, step: usize| sensed[layer][step].clone();
        let (twin, left) = dense
            .compressed(fused, &rows, (made.config(), &best.sizes.layers), options.ridge, &counts)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let found: Vec<Left> = kept
            .iter()
            .map(|kept| Left {
                layer: kept.layer,
                query_heads: kept.query_heads.clone(),
                key_value_heads: kept.key_value_heads.clone(),
                mlp_channels: kept.mlp_channels.clone(),
                experts: kept.experts.clone(),
            })
            .collect();
        // Layers that have lost nothing within are not listed.
        for kept in found {
            assert!(left.contains(&kept), "{name} ({reason}): {kept:?}, expected among {left:?}");
        }
        let made = Network::load(&made.store).expect("a network");
        let (worst, lost) = differences(&rows, &twin, &made, &dense);
        println!("{name} ({reason}): logits within {worst:.1e}, {lost:.1e} lost");
        assert!(worst < 1e-5, "{name} ({reason}): logits differ by {worst:.1e}");
        assert!(lost > 1e-3, "{name} ({reason}): nothing was cut, which proves nothing");
    }
}
