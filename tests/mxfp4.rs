//! Are tensors in MXFP4 read as what they stand for, whichever part of them, and damaged ones refused with a reason?

mod support;

use std::{collections::BTreeMap, path::Path};

use half::bf16;
use serde_json::json;
use slicegpt_gpu::{
    checkpoint::{Checkpoint, Dtype},
    model::Model,
};
use support::{Random, Tensors};

/// What four bits and the scale of their block stand for: sign, two bits of exponent, one of mantissa.
fn value(bits: u8, scale: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(bits >> 1 & 3), f64::from(bits & 1) / 2.0);
    let size = if exponent == 0 { mantissa } else { (1.0 + mantissa) * 2f64.powi(exponent - 1) };
    let value = size * 2f64.powi(i32::from(scale) - 127);
    (if bits & 8 == 0 { value } else { -value }) as f32
}

#[test]
fn values_are_those_of_their_bits_in_the_transposes_and_as_they_are_stored_in_one_file_or_two() {
    let mut random = Random::new(4);
    // Matrices of which a piece of reading has some rows, all, or several.
    for [matrices, out, groups] in [[1, 1, 1], [3, 7, 2], [2, 40, 3]] {
        let count = matrices * out * groups;
        let values: Vec<u8> = (0..count * 16).map(|_| random.below(256) as u8).collect();
        let scales: Vec<u8> =
            (0..count).map(|index| if index < 3 { index as u8 } else { random.below(255) as u8 }).collect();
        let inner = groups * 32;
        // Of every two values, the first one has the lower bits.
        let at = |matrix: usize, row: usize, col: usize| {
            let block = (matrix * out + row) * groups + col / 32;
            let byte = values[block * 16 + col % 32 / 2];
            value(if col.is_multiple_of(2) { byte & 15 } else { byte >> 4 }, scales[block])
        };
        let places = |rows: usize, cols: usize| {
            (0..matrices).flat_map(move |m| (0..rows).flat_map(move |i| (0..cols).map(move |j| (m, i, j))))
        };
        let read: Vec<f32> = places(inner, out).map(|(m, i, j)| at(m, j, i)).collect();
        let stored: Vec<f32> = places(out, inner).map(|(m, i, j)| at(m, i, j)).collect();
        let directory = tempfile::tempdir().expect("a directory");
        let [blocks, powers] = [
            ("a_blocks", vec![matrices, out, groups, 16], values.clone()),
            ("a_scales", vec![matrices, out, groups], scales.clone()),
        ]
        .map(|(name, shape, bytes)| (name.to_owned(), (Dtype::U8, shape, bytes)));
        for shards in [vec![vec![blocks.clone(), powers.clone()]], vec![vec![blocks], vec![powers]]] {
            let mut map = BTreeMap::new();
            for (number, shard) in shards.iter().enumerate() {
                let name =
                    if shards.len() == 1 { "model.safetensors".to_owned() } else { format!("{number}.safetensors") };
                let tensors: Tensors = shard.iter().cloned().collect();
                map.extend(tensors.keys().map(|tensor| (tensor.clone(), name.clone())));
                support::write_tensors(&directory.path().join(name), &tensors, &[]);
            }
            if shards.len() > 1 {
                std::fs::remove_file(directory.path().join("model.safetensors")).expect("a file");
                let index = json!({ "metadata": {}, "weight_map": map }).to_string();
                std::fs::write(directory.path().join("model.safetensors.index.json"), index).expect("an index");
            }
            let mut checkpoint = Checkpoint::open(directory.path()).expect("a checkpoint");
            checkpoint.join_mxfp4("a", ["a_blocks", "a_scales"]).expect("a tensor");
            assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a"]);
            assert_eq!((checkpoint.stored_len(), checkpoint.byte_len()), (17 * count as u64, 64 * count as u64));
            let tensor = checkpoint.tensor("a").expect("the tensor");
            let rows = tensor.transposed().expect("what is stored");
            assert_eq!(
                (tensor.dtype, tensor.shape, rows.shape),
                (Dtype::BF16, &[matrices, inner, out][..], &[matrices, out, inner][..])
            );
            for (tensor, expected) in [(tensor, &read), (rows, &stored)] {
                let bits: Vec<u8> = expected.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect();
                assert_eq!(tensor.read().expect("its bytes"), bits);
                let pieces: Vec<u8> = (0..bits.len())
                    .step_by(77)
                    .flat_map(|first| tensor.read_range(first..bits.len().min(first + 77)).expect("some bytes"))
                    .collect();
                assert_eq!(pieces, bits, "in pieces");
                for _ in 0..20 {
                    let mut ends = [0, 1].map(|_| random.below(bits.len() as u32 + 1) as usize);
                    ends.sort_unstable();
                    assert_eq!(tensor.read_range(ends[0]..ends[1]).expect("some bytes"), bits[ends[0]..ends[1]]);
                }
                assert!(tensor.read_range(0..bits.len() + 1).is_err());
            }
        }
    }
}

const GATE_UP: &str = "model.layers.1.mlp.experts.gate_up_proj";

/// The fixture in MXFP4 with its tensors changed.
fn changed(change: impl Fn(&mut Tensors)) -> tempfile::TempDir {
    let directory = support::copy_of("gpt_oss_mxfp4");
    let path = directory.path().join("model.safetensors");
    let mut tensors = support::tensors(&path);
    change(&mut tensors);
    support::write_tensors(&path, &tensors, &[("format", "pt")]);
    directory
}

fn refusal(directory: &Path) -> String {
    let error = Model::open(directory).err().expect("no such model");
    assert_eq!(error.exit_code(), 3, "{error}");
    error.to_string()
}

#[test]
fn blocks_and_scales_that_do_not_fit_are_refused_by_name() {
    let name = |end: &str| format!("{GATE_UP}{end}");
    let take = |tensors: &mut Tensors, end: &str| tensors.remove(&name(end)).expect("the tensor");
    type Case<'a> = (&'a str, &'a str, &'a dyn Fn(&mut Tensors));
    let cases: [Case; 9] = [
        ("_scales", "missing, where", &|tensors| drop(take(tensors, "_scales"))),
        ("_blocks", "missing, where", &|tensors| drop(take(tensors, "_blocks"))),
        ("", "missing; config.json implies [4, 64, 64]", &|tensors| {
            take(tensors, "_blocks");
            take(tensors, "_scales");
        }),
        ("_scales", "expected shape [4, 64, 2] beside its values, found [4, 2, 64]", &|tensors| {
            let (dtype, _, bytes) = take(tensors, "_scales");
            tensors.insert(name("_scales"), (dtype, vec![4, 2, 64], bytes));
        }),
        ("_blocks", "expected shape [experts, out, in / 32, 16], found [4, 64, 32]", &|tensors| {
            let (dtype, _, bytes) = take(tensors, "_blocks");
            tensors.insert(name("_blocks"), (dtype, vec![4, 64, 32], bytes));
        }),
        ("_blocks", "expected shape [experts, out, in / 32, 16], found [4, 64, 4, 8]", &|tensors| {
            let (dtype, _, bytes) = take(tensors, "_blocks");
            tensors.insert(name("_blocks"), (dtype, vec![4, 64, 4, 8], bytes));
        }),
        ("_blocks", "expected U8", &|tensors| {
            let (_, _, bytes) = take(tensors, "_blocks");
            tensors.insert(name("_blocks"), (Dtype::I8, vec![4, 64, 2, 16], bytes));
        }),
        ("", "expected shape [4, 64, 64], found [2, 64, 128]", &|tensors| {
            let ((dtype, _, blocks), (_, _, scales)) = (take(tensors, "_blocks"), take(tensors, "_scales"));
            tensors.insert(name("_blocks"), (dtype, vec![2, 128, 2, 16], blocks));
            tensors.insert(name("_scales"), (dtype, vec![2, 128, 2], scales));
        }),
        ("", "it is also there as", &|tensors| {
            tensors.insert(name(""), (Dtype::BF16, vec![4, 64, 64], vec![0; 4 * 64 * 64 * 2]));
        }),
    ];
    for (end, reason, change) in cases {
        let message = refusal(changed(change).path());
        assert!(message.contains(&name(end)) && message.contains(reason), "{message}");
    }
}

#[test]
fn a_scale_that_is_no_number_is_named_when_it_is_read_and_one_too_large_makes_none() {
    for (scale, reason) in [(255, "scale 130 is 255, which stands for no number"), (254, "is NaN or infinite")] {
        let directory = changed(|tensors| {
            tensors.get_mut(&format!("{GATE_UP}_scales")).expect("the scales").2[130] = scale;
            let values = &mut tensors.get_mut(&format!("{GATE_UP}_blocks")).expect("the values").2;
            values[130 * 16..131 * 16].fill(0x77);
        });
        let model = Model::open(directory.path()).expect("a model whose values have not been read");
        let error = model.store.check_values(|| Ok(())).expect_err("no number");
        let message = error.to_string();
        assert!(error.exit_code() == 3 && message.contains(GATE_UP) && message.contains(reason), "{message}");
        // Of the second expert.
        let of = |expert: usize| {
            let linears = model.store.expert(1, expert).expect("where to read it");
            linears.iter().try_for_each(|linear| linear.matrix.to_f32().map(drop))
        };
        assert!(of(0).is_ok() && of(2).is_ok());
        assert!(of(1).expect_err("no number").to_string().contains(reason));
    }
}

#[test]
fn what_is_read_of_mxfp4_says_so_and_is_described_as_ordinary_weights() {
    let model = Model::open(&support::fixture("parity/gpt_oss_mxfp4")).expect("a model");
    let notes: Vec<&str> = model.store.notes().collect();
    assert!(notes.iter().any(|note| note.starts_with("4 tensors of experts are stored in MXFP4")), "{notes:?}");
    assert!(model.store.unexpected().is_empty() && !model.config().raw.contains_key("quantization_config"));
    assert_eq!(model.config().quantization.as_ref().map(|section| &section["quant_method"]), Some(&json!("mxfp4")));
    assert!(model.store.types().all(|(_, dtype)| dtype == Dtype::BF16));
    assert_eq!(model.store.element_size(), 2);
}
