//! What selections go by: second moments of gradients, of next tokens that the model has drawn itself.

use nalgebra::DMatrix;
use slicegpt_gpu::{
    compress::{Sensing, Sensitivities},
    model::{BatchSize, PLACES, PlaceSums, StepGradients, Wanted, architecture::Role, place},
    reference::{self, Network},
    stream::{Collect, Gradients, GradientsAt, Sitting},
};

use super::*;

/// By layer and step: second moments of the gradient of what a block makes, and the gradient of the weight that makes
/// it.
struct Both<'g> {
    gpu: &'g Gpu,
    found: Vec<(usize, usize, Vec<f32>, Vec<f32>)>,
}

impl Collect for Both<'_> {
    fn wanted(&self) -> Wanted {
        Wanted { results: true, ..Wanted::ALL }
    }

    fn step(&mut self, at: GradientsAt, gradients: &StepGradients) -> slicegpt_gpu::Result<()> {
        for block in &gradients.blocks {
            let writes = |role| matches!(role, Role::Output | Role::Down);
            let Some(write) = block.linears.iter().find(|linear| writes(linear.role)) else { continue };
            let Some(result) = &block.result else { continue };
            let weight = write.affine.weight.as_ref().expect("a gradient");
            let [result, weight] = [result, weight].map(|matrix| self.gpu.download(matrix).expect("a readback"));
            self.found.push((at.layer, at.step.index, result, weight));
        }
        Ok(())
    }
}

fn gradients(
    gpu: &Gpu,
    model: &Model,
    rows: &[Vec<u32>],
    drawn: Option<u32>,
    batch: usize,
    to: &mut dyn Collect,
) -> f64 {
    let temporary = tempfile::tempdir().expect("a directory");
    let directory = OutputDirectory::create(&temporary.path().join("out"), false).expect("an output");
    let batch = BatchSize { rows: Some(batch), ..BatchSize::default() };
    let memory = MemoryPlan { batch, ..MemoryPlan::unlimited(None) };
    let progress = &Silent;
    let (apart, change, training) = (false, None, None);
    let work = Gradients { gpu, model, rows, memory, directory: &directory, progress, apart, change, drawn, training };
    work.run(to).expect("gradients")
}

/// With one token that predicts anything, the gradient of a weight is the product of that of its result, d, and of what
/// it reads: d·dᵀ is its product with itself, up to a factor.
#[test]
fn the_second_moments_of_one_token_are_those_of_the_gradient_of_the_weight_that_writes() {
    let gpu = support::gpu();
    for (name, reason) in KINDS {
        let model = parity(name);
        let width = model.config().hidden_size;
        let of = |rows: &[Vec<u32>]| {
            let mut both = Both { gpu: &gpu, found: Vec::new() };
            gradients(&gpu, &model, rows, None, 1, &mut both);
            both.found
        };
        let [first, second] = [[3, 5], [7, 2]].map(|row| vec![row.to_vec()]);
        let (found, other) = (of(&first), of(&second));
        assert!(!found.is_empty(), "{name}");
        for (layer, step, moments, weight) in &found {
            let cols = weight.len() / width;
            let product = |i: usize, j: usize| {
                let pairs = weight[i * cols..][..cols].iter().zip(&weight[j * cols..][..cols]);
                pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
            };
            let trace = |of: &dyn Fn(usize, usize) -> f64| (0..width).map(|i| of(i, i)).sum::<f64>();
            let own = |i: usize, j: usize| f64::from(moments[i * width + j]);
            let (all, expected) = (trace(&own), trace(&product));
            assert!(all > 0.0 && expected > 0.0, "{name} ({reason}), layer {layer}, step {step}: nothing");
            let upper = (0..width).flat_map(|i| (i..width).map(move |j| (i, j)));
            let worst = support::worst(upper.map(|(i, j)| (own(i, j) / all - product(i, j) / expected).abs()));
            assert!(worst < 1e-5, "{name} ({reason}), layer {layer}, step {step}: {worst:.1e} of the trace");
        }
        // Sums over tokens: a token counts half of the loss of two.
        let together = of(&[first, second].concat());
        for (((layer, step, sum, _), (.., a, _)), (.., b, _)) in together.iter().zip(&found).zip(&other) {
            let trace: f32 = (0..width).map(|i| a[i * width + i] + b[i * width + i]).sum();
            for at in (0..width).flat_map(|i| (i..width).map(move |j| i * width + j)) {
                let off = (4.0 * sum[at] - a[at] - b[at]).abs() / trace;
                assert!(off < 1e-6, "{name} ({reason}), layer {layer}, step {step}: {off:.1e} of the trace");
            }
        }
    }
}

/// By layer and step: how much tokens count by their places.
struct Places(Vec<(usize, usize, [f64; PLACES])>);

impl Collect for Places {
    fn wanted(&self) -> Wanted {
        Wanted::RESULTS
    }

    fn step(&mut self, at: GradientsAt, gradients: &StepGradients) -> slicegpt_gpu::Result<()> {
        self.0.push((at.layer, at.step.index, gradients.places.relative()));
        Ok(())
    }
}

/// The gradients by differences: of each coordinate of a token, what the loss makes of a little more and of a little
/// less of it.
#[test]
fn tokens_count_by_how_much_an_error_as_large_as_a_share_of_them_does() {
    const LITTLE: f64 = 1e-4;
    let gpu = support::gpu();
    for (name, reason, normed) in [
        ("llama_gqa_tied", "a sequential layer", false),
        ("phi_gqa", "blocks beside one another", false),
        ("qwen3_moe_normalised", "mixtures", false),
        ("gemma2_no_caps", "norms after blocks", true),
    ] {
        let model = parity(name);
        let network = Network::load(&model.store).expect("a network");
        let rows = rows(&model, &[19, 18]);
        let mut found = Places(Vec::new());
        gradients(&gpu, &model, &rows, None, 2, &mut found);
        let config = model.config();
        let points: Vec<(usize, usize)> = (0..config.layers.len())
            .flat_map(|layer| config.layer_steps(layer).map(move |step| (layer, step.index)))
            .collect();
        assert_eq!(found.0.len(), points.len(), "{name}");
        for (layer, step, relative) in found.0 {
            let number = points.iter().position(|&point| point == (layer, step)).expect("a step");
            let mut expected = PlaceSums::default();
            for row in &rows {
                let run = |x: DMatrix<f64>, points: &[(usize, usize)]| {
                    points.iter().try_fold(x, |x, &(layer, step)| network.step(layer, step, &x)).expect("a residual")
                };
                let y = run(network.embed(row), &points[..=number]);
                let loss = |y: DMatrix<f64>| {
                    let logits = network.read_out(&run(y, &points[number + 1..]));
                    reference::loss(&logits.rows(0, row.len() - 1).into_owned(), &row[1..]).iter().sum::<f64>()
                };
                // The second of them, one of the next, and the usual ones stand for all.
                for token in [0, 1, 3, 16, 17, 18].into_iter().filter(|&token| token < row.len()) {
                    let slope = |i: usize| {
                        let [more, less] = [LITTLE, -LITTLE].map(|by| {
                            let mut y = y.clone();
                            y[(token, i)] += by;
                            loss(y)
                        });
                        (more - less) / (2.0 * LITTLE)
                    };
                    let energy: f64 = (0..y.ncols()).map(|i| slope(i).powi(2)).sum();
                    expected.add(place(token), energy * if normed { 1.0 } else { y.row(token).norm_squared() });
                }
            }
            let expected = expected.relative();
            for at in [0, 1] {
                let off = (relative[at] / expected[at] - 1.0).abs();
                let all = format!("{relative:.4?}, expected {expected:.4?}");
                assert!(off < 1e-4, "{name} ({reason}), layer {layer}, step {step}, place {at}: {all}");
            }
        }
    }
}

struct Nothing;

impl Collect for Nothing {
    fn step(&mut self, _: GradientsAt, _: &StepGradients) -> slicegpt_gpu::Result<()> {
        Ok(())
    }
}

#[test]
fn next_tokens_that_are_drawn_are_those_that_the_model_predicts() {
    let gpu = support::gpu();
    let model = open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo"));
    let rows = rows(&model, &[40, 33, 64, 17]);
    let network = Network::load(&model.store).expect("a network");
    // The mean loss of what is drawn is the mean entropy of the predictions, give or take its own deviation.
    let (mut entropy, mut variance, mut count) = (0.0, 0.0, 0.0);
    for row in &rows {
        let logits = network.logits(row).expect("logits");
        for t in 0..row.len() - 1 {
            let most = logits.row(t).max();
            let total: f64 = logits.row(t).iter().map(|logit| (logit - most).exp()).sum();
            let losses: Vec<f64> = logits.row(t).iter().map(|logit| most + total.ln() - logit).collect();
            let mean: f64 = losses.iter().map(|loss| (-loss).exp() * loss).sum();
            variance += losses.iter().map(|loss| (-loss).exp() * (loss - mean).powi(2)).sum::<f64>();
            entropy += mean;
            count += 1.0;
        }
    }
    let (entropy, deviation) = (entropy / count, variance.sqrt() / count);
    let loss = |drawn, batch| gradients(&gpu, &model, &rows, drawn, batch, &mut Nothing);
    let found = loss(Some(1), 1);
    let given = loss(None, 1);
    println!(
        "{found:.3} drawn, {entropy:.3} expected, give or take {deviation:.3}; {given:.3} of those that are there"
    );
    assert!((found - entropy).abs() < 4.0 * deviation, "{found:.3}, expected {entropy:.3} +- {deviation:.3}");
    assert!((given - entropy).abs() > 20.0 * deviation, "random tokens are not what the model predicts");
    // However sequences are batched, and by the seed alone.
    assert!((loss(Some(1), 4) - found).abs() < 1e-5 * found);
    assert!(loss(Some(2), 1) != found);
}

#[test]
fn the_sums_are_of_draws_by_the_seed() {
    let gpu = support::gpu();
    let model = parity("llama_gqa_tied");
    let rows = rows(&model, &[33, 28]);
    let sums = |seed: u64| {
        let temporary = tempfile::tempdir().expect("a directory");
        let directory = OutputDirectory::create(&temporary.path().join("sums"), false).expect("an output");
        let memory = MemoryPlan::unlimited(None);
        let sensing = Sensing { model: &model, rows: &rows, memory, directory: &directory, progress: &Silent };
        let sums = sensing.run(&gpu, seed, &mut Sitting::whole()).expect("sums").expect("all of them");
        sums.checksums().to_vec()
    };
    let first = sums(42);
    assert_eq!(first, sums(42));
    for other in [43, 42 | 1 << 32] {
        assert_ne!(first, sums(other), "seed {other}");
    }
}

#[test]
fn what_tokens_count_is_kept_and_is_never_less_than_once() {
    let gpu = support::gpu();
    let model = parity("llama_gqa_tied");
    let rows = rows(&model, &[40, 33]);
    let temporary = tempfile::tempdir().expect("a directory");
    let directory = OutputDirectory::create(&temporary.path().join("sums"), false).expect("an output");
    let memory = MemoryPlan::unlimited(None);
    let sensing = Sensing { model: &model, rows: &rows, memory, directory: &directory, progress: &Silent };
    let sums = sensing.run(&gpu, 42, &mut Sitting::whole()).expect("sums").expect("all of them");
    let again = Sensitivities::restore(model.config(), &directory, sums.checksums().to_vec()).expect("sums");
    let mut raised = 0;
    for layer in 0..model.config().layers.len() {
        for step in model.config().layer_steps(layer) {
            let places = Sensitivities::places(Some(&sums), layer, step);
            assert_eq!(places, Sensitivities::places(Some(&again), layer, step));
            assert!(places.iter().all(|count| (1.0..=100.0).contains(count)), "{places:?}");
            assert_eq!(places[PLACES - 1], 1.0);
            assert_eq!(Sensitivities::places(None, layer, step), [1.0; PLACES]);
            raised += places.iter().filter(|count| **count > 1.0).count();
        }
    }
    assert!(raised > 0, "no first token counts for more, which proves nothing");
}
