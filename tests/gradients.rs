//! Do the gradients of whole models agree with those of PyTorch's autograd, for every row of the architecture table,
//! wherever residuals lie and however sequences are batched?

mod support;

use std::{collections::BTreeMap, ops::Range};

use slicegpt_gpu::{
    checkpoint::{Checkpoint, OutputDirectory},
    gpu::{Gpu, Matrix},
    model::{
        AffineGradients, BatchSize, Config, Model, Names, StepGradients,
        architecture::{ARCHITECTURES, Layout, Role},
        scatter,
    },
    progress::Silent,
    stream::{Collect, Gradients, GradientsAt, MemoryPlan, Placement, Table},
};

/// Gradients as the tensors of the checkpoint have their values: rows, columns and values.
type Tensors = BTreeMap<String, (usize, usize, Vec<f32>)>;

/// Puts all gradients where the checkpoint has what they are of.
struct Store<'a> {
    gpu: &'a Gpu,
    config: &'a Config,
    tensors: Tensors,
    /// The sequences of each call.
    rows: Vec<Range<usize>>,
}

impl Store<'_> {
    fn values(&self, matrix: &Matrix) -> Vec<f32> {
        self.gpu.download(matrix).expect("a readback")
    }

    fn add(&mut self, name: String, rows: usize, cols: usize, at: usize, values: &[f32]) {
        let (.., stored) = self.tensors.entry(name).or_insert_with(|| (rows, cols, vec![0.0; rows * cols]));
        stored[at * cols..][..values.len()].iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    }

    fn vector(&mut self, name: String, values: &[f32]) {
        self.add(name, 1, values.len(), 0, values);
    }

    fn norm(&mut self, name: &str, gradients: &AffineGradients, width: usize) {
        for (part, of) in [("weight", &gradients.weight), ("bias", &gradients.bias)] {
            let Some(of) = of else { continue };
            // The norm of heads is one for all of them.
            let mut sums = vec![0.0; width];
            let values = self.values(of);
            values.chunks(width).for_each(|head| sums.iter_mut().zip(head).for_each(|(sum, value)| *sum += value));
            self.vector(format!("{name}.{part}"), &sums);
        }
    }
}

impl Store<'_> {
    /// The gradients of norms of queries or keys, which heads may share, or have in a tensor each.
    fn head_norms(&mut self, layer: usize, stored: &[(String, Vec<usize>)], gradients: &AffineGradients) {
        let names = Names::of(self.config);
        let count: usize = stored.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        let places = self.config.head_norm_places(layer, count);
        for (part, of) in [("weight", &gradients.weight), ("bias", &gradients.bias)] {
            let Some(of) = of else { continue };
            let mut sums = vec![0.0; count];
            for head in self.values(of).chunks(count) {
                head.iter().zip(&places).for_each(|(value, &place)| sums[place] += value);
            }
            let mut first = 0;
            for (stem, shape) in stored {
                let (rows, cols) = if let [rows, cols] = shape[..] { (rows, cols) } else { (1, shape[0]) };
                let name = names.layer(layer, &format!("{stem}.{part}"));
                self.add(name, rows, cols, 0, &sums[first..first + rows * cols]);
                first += rows * cols;
            }
        }
    }
}

impl Collect for Store<'_> {
    fn step(&mut self, at: GradientsAt, gradients: &StepGradients) -> slicegpt_gpu::Result<()> {
        let (config, names) = (self.config, Names::of(self.config));
        self.rows.push(at.rows.clone());
        for block in &gradients.blocks {
            let norms = [(block.spec.norm, &block.norm), (block.spec.norm_after, &block.norm_after)];
            for (name, sums) in norms {
                if let Some(name) = name {
                    self.norm(&names.layer(at.layer, name), sums, config.hidden_size);
                }
            }
            for (stored, sums) in config.head_norms(at.layer).iter().zip(&block.head_norms) {
                self.head_norms(at.layer, stored, sums);
            }
            for linear in block.linears.iter().filter(|linear| linear.role != Role::Router) {
                let name = names.layer(at.layer, linear.spec.name);
                let (rows, cols) = config.weight_shape(linear.spec, at.layer);
                let held = config.weight_rows(linear.spec, linear.role, at.layer);
                let values = self.values(linear.affine.weight.as_ref().expect("a gradient of a weight"));
                let mut stored = vec![0.0; rows * cols];
                scatter(&held, &values, cols, &mut stored);
                self.add(format!("{name}.weight"), rows, cols, 0, &stored);
                if let Some(bias) = &linear.affine.bias {
                    let mut stored = vec![0.0; rows];
                    scatter(&held, &self.values(bias), 1, &mut stored);
                    self.vector(format!("{name}.bias"), &stored);
                }
            }
        }
        Ok(())
    }

    fn ends(&self) -> bool {
        true
    }

    fn head(&mut self, _: Range<usize>, rows: Range<usize>, gradients: &AffineGradients) -> slicegpt_gpu::Result<()> {
        let (config, names) = (self.config, Names::of(self.config));
        let name = if config.tie_word_embeddings { names.embedding() } else { names.head() };
        let values = self.values(gradients.weight.as_ref().expect("a gradient of the head"));
        self.add(name, config.vocab_size, values.len() / rows.len(), rows.start, &values);
        if let Some(bias) = &gradients.bias {
            let values = self.values(bias);
            self.add(names.head_bias(), config.vocab_size, 1, rows.start, &values);
        }
        Ok(())
    }

    fn final_norm(&mut self, _: Range<usize>, gradients: &AffineGradients) -> slicegpt_gpu::Result<()> {
        self.norm(&Names::of(self.config).final_norm(), gradients, self.config.hidden_size);
        Ok(())
    }

    fn embedding(
        &mut self,
        table: Table,
        _: Range<usize>,
        rows: Range<usize>,
        gradient: &Matrix,
    ) -> slicegpt_gpu::Result<()> {
        let names = Names::of(self.config);
        let name = if table == Table::Positions {
            names.positions().expect("a table of positions")
        } else {
            names.embedding()
        };
        let shapes = self.config.tensors();
        let shape = &shapes.iter().find(|spec| spec.name == name).expect("a table").shape;
        let values = self.values(gradient);
        self.add(name, shape[0], shape[1], rows.start, &values);
        Ok(())
    }
}

struct Case {
    placement: Placement,
    batch: BatchSize,
    part_bytes: u64,
    apart: bool,
}

impl Default for Case {
    fn default() -> Self {
        Self { placement: Placement::Gpu, batch: BatchSize::default(), part_bytes: 1 << 20, apart: false }
    }
}

/// The loss, and the gradients of all tensors.
fn gradients(gpu: &Gpu, model: &Model, rows: &[Vec<u32>], case: &Case) -> (f64, Tensors, Vec<Range<usize>>) {
    let directory = tempfile::tempdir().expect("a directory");
    let output = OutputDirectory::create(&directory.path().join("out"), false).expect("an output");
    let memory = MemoryPlan {
        batch: case.batch,
        placement: case.placement,
        part_bytes: case.part_bytes,
        ..MemoryPlan::unlimited(None)
    };
    let work = Gradients {
        gpu,
        model,
        rows,
        memory,
        directory: &output,
        progress: &Silent,
        apart: case.apart,
        change: None,
        drawn: None,
        training: None,
    };
    let mut store = Store { gpu, config: model.config(), tensors: Tensors::new(), rows: Vec::new() };
    let loss = work.run(&mut store).expect("gradients");
    (loss, store.tensors, store.rows)
}

fn fixture(name: &str) -> (Model, Vec<Vec<u32>>) {
    let path = support::fixture("parity").join(name);
    let rows = support::tokens(&path.join("tokens.json")).into_iter().filter(|row| row.len() > 1).collect();
    (Model::open(&path).expect("a model"), rows)
}

/// As the fixtures have matrices: each times cosines from both sides.
fn products(name: &str, (rows, cols, values): &(usize, usize, Vec<f32>)) -> Vec<(String, Vec<f64>)> {
    if *rows == 1 || *cols == 1 {
        return vec![(name.to_owned(), values.iter().map(|&value| f64::from(value)).collect())];
    }
    let cosine = |i: usize| (1.7 * (i + 1) as f64).cos();
    let (mut right, mut left) = (vec![0.0; *rows], vec![0.0; *cols]);
    for (i, row) in values.chunks(*cols).enumerate() {
        for (j, &value) in row.iter().enumerate() {
            right[i] += f64::from(value) * cosine(j);
            left[j] += cosine(i) * f64::from(value);
        }
    }
    vec![(format!("{name}.right"), right), (format!("{name}.left"), left)]
}

fn transposed((rows, cols, values): &(usize, usize, Vec<f32>)) -> (usize, usize, Vec<f32>) {
    let turned = (0..*cols).flat_map(|j| (0..*rows).map(move |i| values[i * cols + j]));
    (*cols, *rows, turned.collect())
}

/// The largest error of any tensor relative to its largest value; and to a hundredth of the largest of all, since the
/// gradient of a bias of keys is nothing but what rounding leaves.
fn worst(config: &Config, tensors: &Tensors, expected: &BTreeMap<String, Vec<f32>>) -> (f64, String) {
    let conv1d: Vec<String> = config
        .architecture
        .weights()
        .filter(|weight| weight.layout == Layout::Conv1d)
        .map(|weight| format!(".{}.weight", weight.name))
        .collect();
    let mut found = BTreeMap::new();
    for (name, tensor) in tensors {
        let is_transposed = conv1d.iter().any(|end| name.ends_with(end));
        found.extend(products(name, &if is_transposed { transposed(tensor) } else { tensor.clone() }));
    }
    let magnitude = |values: &[f32]| values.iter().fold(0.0f64, |most, value| most.max(f64::from(value.abs())));
    // A table that is read with its norm in it has the gradient of what that gives.
    let normed = config.architecture.names.embedding_norm.is_some();
    let apart = |name: &str| normed && name.contains(config.architecture.names.embedding);
    found.retain(|name, _| !apart(name));
    let expected: BTreeMap<&String, &Vec<f32>> = expected.iter().filter(|(name, _)| !apart(name)).collect();
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().copied().collect::<Vec<_>>());
    let largest = expected.values().map(|values| magnitude(values)).fold(0.0, f64::max);
    let error = |(&name, &values): (&&String, &&Vec<f32>)| {
        let scale = magnitude(values).max(0.01 * largest);
        let off = support::worst(found[name].iter().zip(values).map(|(a, &b)| (a - f64::from(b)).abs()));
        assert_eq!(found[name].len(), values.len(), "{name}");
        (off / scale, name.clone())
    };
    expected.iter().map(error).max_by(|a, b| a.0.total_cmp(&b.0)).expect("tensors")
}

/// What PyTorch has made of a model, by the names that the table has, and the loss.
fn expected(config: &Config, name: &str) -> (BTreeMap<String, Vec<f32>>, f64) {
    let names = config.architecture.names;
    let named = |stored: &str| match names.head_alias.and_then(|alias| stored.strip_prefix(alias)) {
        Some(rest) => format!("{}{rest}", names.head),
        None => stored.to_owned(),
    };
    let path = support::fixture("gradients").join(format!("{name}.safetensors"));
    let checkpoint = Checkpoint::open(&path).expect("a fixture");
    let mut tensors: BTreeMap<String, Vec<f32>> =
        checkpoint.names().map(|name| (named(name), support::tensor(&path, name))).collect();
    let loss = tensors.remove("loss").expect("a loss");
    (tensors, f64::from(loss[0]))
}

#[test]
fn gradients_agree_with_autograd_for_every_row_of_the_table() {
    let gpu = support::gpu();
    let mut names: Vec<String> = std::fs::read_dir(support::fixture("gradients"))
        .expect("fixtures")
        .map(|entry| entry.expect("an entry").path().file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    names.sort();
    let rows = ARCHITECTURES.iter();
    let all: std::collections::BTreeSet<&str> = rows.map(|row| row.model_type).collect();
    let (mut failures, mut types) = (Vec::new(), std::collections::BTreeSet::new());
    for name in names {
        let (model, rows) = fixture(&name);
        types.insert(model.config().architecture.model_type);
        let (loss, tensors, calls) = gradients(&gpu, &model, &rows, &Case::default());
        assert!(calls.iter().all(|call| *call == (0..rows.len())), "{name}");
        let (expected, expected_loss) = expected(model.config(), &name);
        let (error, tensor) = worst(model.config(), &tensors, &expected);
        println!("{name}: {error:.1e} at {tensor}, loss off by {:.1e}", (loss - expected_loss).abs());
        if error > 1e-4 || (loss - expected_loss).abs() > 1e-5 * expected_loss {
            failures.push(format!("{name}: error {error:.1e} at {tensor}, loss {loss} for {expected_loss}"));
        }
    }
    assert_eq!(types, all, "rows without a fixture");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn gradients_do_not_depend_on_where_residuals_lie() {
    let gpu = support::gpu();
    // Parallel blocks with a head of its own and biases; sequential ones, tied, with learned positions; gated delta
    // nets; experts, for all batches at once and batch by batch.
    for name in ["phi_gqa", "opt_gelu", "qwen35_wide", "qwen2_moe_dense_between"] {
        let (model, rows) = fixture(name);
        let one_by_one = BatchSize { rows: Some(1), ..BatchSize::default() };
        let of = |placement| {
            let case = Case { placement, batch: one_by_one, part_bytes: 4096, ..Case::default() };
            gradients(&gpu, &model, &rows, &case)
        };
        let (loss, expected, _) = of(Placement::Gpu);
        for placement in [Placement::Host, Placement::Disk, Placement::Gpu] {
            let (found, tensors, _) = of(placement);
            assert_eq!((found, &tensors), (loss, &expected), "{name}, {placement:?}");
        }
        // Sums over other batches, in other parts of the tables, are rounded otherwise.
        let (whole_loss, whole, _) = gradients(&gpu, &model, &rows, &Case::default());
        assert!((whole_loss - loss).abs() < 1e-6, "{name}");
        assert!(tensors_differ(&whole, &expected) < 1e-5, "{name}: batches");
    }
}

#[test]
fn gradients_of_sequences_by_themselves_are_those_of_their_own_loss() {
    for name in ["qwen3_window", "qwen2_moe_dense_between"] {
        by_themselves(name);
    }
}

fn by_themselves(name: &str) {
    let gpu = support::gpu();
    let (model, rows) = fixture(name);
    struct Each<'a>(Vec<Store<'a>>);
    impl Collect for Each<'_> {
        fn step(&mut self, at: GradientsAt, gradients: &StepGradients) -> slicegpt_gpu::Result<()> {
            assert_eq!(at.rows.len(), 1);
            self.0[at.rows.start].step(at, gradients)
        }
    }
    let directory = tempfile::tempdir().expect("a directory");
    let output = OutputDirectory::create(&directory.path().join("out"), false).expect("an output");
    let memory = MemoryPlan::unlimited(None);
    let store = || Store { gpu: &gpu, config: model.config(), tensors: Tensors::new(), rows: Vec::new() };
    let mut each = Each(rows.iter().map(|_| store()).collect());
    let work = Gradients {
        gpu: &gpu,
        model: &model,
        rows: &rows,
        memory,
        directory: &output,
        progress: &Silent,
        apart: true,
        change: None,
        drawn: None,
        training: None,
    };
    work.run(&mut each).expect("gradients");
    for (row, store) in rows.iter().zip(each.0) {
        let (_, mut alone, _) = gradients(&gpu, &model, std::slice::from_ref(row), &Case::default());
        alone.retain(|name, _| store.tensors.contains_key(name));
        assert!(store.tensors.len() > 15 && alone == store.tensors, "{name}, a sequence of {}", row.len());
    }
}

/// The largest difference of any tensor, relative to its largest value or a hundredth of that of all.
fn tensors_differ(a: &Tensors, b: &Tensors) -> f64 {
    let magnitude = |values: &[f32]| values.iter().fold(0.0f32, |most, value| most.max(value.abs()));
    let largest = b.values().map(|(.., values)| magnitude(values)).fold(0.0, f32::max);
    let differ = |(name, (.., values)): (&String, &(usize, usize, Vec<f32>))| {
        let off = support::worst(values.iter().zip(&b[name].2).map(|(a, b)| f64::from((a - b).abs())));
        off / f64::from(magnitude(&b[name].2).max(0.01 * largest))
    };
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    support::worst(a.iter().map(differ))
}

#[test]
fn gradients_want_sequences_with_a_next_token() {
    let gpu = support::gpu();
    let (model, _) = fixture("llama_bias");
    let directory = tempfile::tempdir().expect("a directory");
    let output = OutputDirectory::create(&directory.path().join("out"), false).expect("an output");
    for rows in [vec![], vec![vec![1, 2, 3], vec![4]]] {
        let work = Gradients {
            gpu: &gpu,
            model: &model,
            rows: &rows,
            memory: MemoryPlan::unlimited(None),
            directory: &output,
            progress: &Silent,
            apart: false,
            change: None,
            drawn: None,
            training: None,
        };
        let mut store = Store { gpu: &gpu, config: model.config(), tensors: Tensors::new(), rows: Vec::new() };
        assert!(work.run(&mut store).is_err(), "{rows:?}");
    }
}
