//! Does generation stop where it should, and sampling not depend on how it is batched?

mod support;

use std::fs;

use slicegpt_gpu::{
    generate::{Resident, Samples, Sampling, Session, generate, sample_sequences},
    gpu::Gpu,
    model::Model,
    progress::Silent,
};
use tempfile::TempDir;

const GREEDY: Sampling = Sampling { temperature: 0.0, top_p: 1.0, seed: 1 };

/// A copy of a fixture whose config says these tokens begin and end a text.
fn model(bos: u32, eos: u32) -> (TempDir, Model) {
    let directory = TempDir::new().expect("a directory");
    let fixture = support::fixture("parity/llama_gqa_tied");
    fs::copy(fixture.join("model.safetensors"), directory.path().join("model.safetensors")).expect("a copy");
    let mut config: serde_json::Value =
        serde_json::from_slice(&fs::read(fixture.join("config.json")).expect("a config")).expect("JSON");
    config["bos_token_id"] = bos.into();
    config["eos_token_id"] = serde_json::json!([eos, 100_000]);
    fs::write(directory.path().join("config.json"), config.to_string()).expect("a config");
    let model = Model::open(directory.path()).expect("a model");
    (directory, model)
}

fn rollout(gpu: &Gpu, model: &Model, count: usize) -> Vec<u32> {
    let mut tokens = Vec::new();
    let made = generate(gpu, model, &[3, 1, 4], &model.config().eos_token_ids, count, &GREEDY, |token| {
        tokens.push(token);
        Ok(true)
    });
    assert_eq!(made.expect("tokens"), tokens.len());
    tokens
}

#[test]
fn generation_stops_at_an_end_token_and_at_the_end_of_the_positions() {
    let gpu = support::gpu();
    let (_directory, endless) = model(1, 99_999);
    let free = rollout(&gpu, &endless, 12);
    assert_eq!(free.len(), 12);
    let last = free[7];
    let first = free.iter().position(|&token| token == last).expect("it is there");
    let (_directory, ending) = model(1, last);
    assert_eq!(rollout(&gpu, &ending, 12), free[..first], "the end token is not part of the text");
    let positions = endless.config().max_position_embeddings;
    assert_eq!(rollout(&gpu, &endless, 10 * positions).len(), positions - 3);
}

#[test]
fn greedy_text_is_that_of_transformers_whatever_the_attention() {
    let gpu = support::gpu();
    let text = fs::read_to_string(support::fixture("greedy.json")).expect("the fixture");
    let all: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).expect("JSON");
    assert!(all.len() >= 16, "only {} texts", all.len());
    for (name, entry) in all {
        let ids = |what: &str| -> Vec<u32> {
            let list = entry[what].as_array().expect("a list");
            list.iter().map(|id| id.as_u64().expect("an id") as u32).collect()
        };
        let model = Model::open(&support::fixture("parity").join(&name)).expect("a model");
        let (expected, mut made) = (ids("tokens"), Vec::new());
        generate(&gpu, &model, &ids("prompt"), &[], expected.len(), &GREEDY, |token| {
            made.push(token);
            Ok(true)
        })
        .expect("tokens");
        assert_eq!(made, expected, "{name}");
    }
}

#[test]
fn logits_with_a_cache_are_those_of_whole_sequences() {
    let gpu = support::gpu();
    for name in [
        "bloom_tied",
        "cohere_qk_norm",
        "falcon_alibi_parallel",
        "falcon_new",
        "gemma2_tied",
        "gemma3_pattern",
        "gemma3_multimodal",
        "gpt_neo_global",
        "mpt_tied",
        "olmo2_tied",
        "olmo_clip",
        "qwen35_interval",
        "qwen35_multimodal",
        "qwen35_tied",
        "qwen35_wide",
        "stablelm_parallel",
    ] {
        let path = support::fixture("parity").join(name);
        let model = Model::open(&path).expect("a model");
        let row = &support::tokens(&path.join("tokens.json"))[1];
        let expected = support::tensor(&path.join("logits.safetensors"), "logits.1");
        let weights = Resident::upload(&gpu, &model, row.len()).expect("weights");
        let mut session = Session::new(&gpu, &model, &weights, 1, row.len()).expect("a session");
        let (mut done, vocabulary) = (0, model.config().vocab_size);
        for tokens in [4, 1, 1, 3].into_iter().chain(std::iter::repeat_n(1, row.len() - 9)) {
            let ids = gpu.upload_u32(&row[done..done + tokens]).expect("ids");
            let x = session.step(ids, tokens).expect("a step");
            done += tokens;
            let found = session.logits(&x).expect("logits");
            let error = support::relative_error(&found, &expected[(done - 1) * vocabulary..done * vocabulary]);
            assert!(error <= 2e-5, "{name}: relative error {error:.1e} after {done} tokens");
        }
    }
}

#[test]
fn states_of_sequences_side_by_side_do_not_mix() {
    let gpu = support::gpu();
    let model = Model::open(&support::fixture("parity").join("qwen35_interval")).expect("a model");
    let sample = |together| {
        let samples = Samples { starts: [5, 9, 11, 3].map(|id| vec![id]).to_vec(), length: 12, seed: 3 };
        sample_sequences(&gpu, &model, samples, Some(together), &Silent).expect("sequences")
    };
    let alone = sample(1);
    assert!(alone.windows(2).all(|pair| pair[0][1..] != pair[1][1..]), "{alone:?}");
    for together in [2, 3, 4] {
        assert_eq!(sample(together), alone, "{together} at a time");
    }
}

#[test]
fn sampled_sequences_do_not_depend_on_batches_and_differ_by_seed() {
    let gpu = support::gpu();
    let (_directory, model) = model(5, 2);
    // Up to four rows go through the same kernels, so that the logits are the same to the bit.
    let sample = |seed, together| {
        let samples = Samples { starts: vec![vec![5]; 4], length: 20, seed };
        sample_sequences(&gpu, &model, samples, Some(together), &Silent).expect("sequences")
    };
    let sequences = sample(7, 4);
    assert!(
        sequences.iter().all(|row| row.len() == 20 && row[0] == 5),
        "each starts with the BOS token: {sequences:?}"
    );
    for (index, row) in sequences.iter().enumerate() {
        assert!(!sequences[..index].contains(row), "sequence {index} is there twice");
    }
    for together in [1, 2, 3] {
        assert_eq!(sample(7, together), sequences, "{together} at a time");
    }
    assert_ne!(sample(8, 4), sequences);
}

#[test]
fn sequences_go_on_from_what_they_begin_with_as_if_they_had_drawn_it() {
    let gpu = support::gpu();
    let (_directory, model) = model(5, 2);
    let sample = |starts, together| {
        let samples = Samples { starts, length: 20, seed: 7 };
        sample_sequences(&gpu, &model, samples, Some(together), &Silent)
    };
    let drawn = sample(vec![vec![5]; 4], 4).expect("sequences");
    let begun: Vec<Vec<u32>> = drawn.iter().zip([7, 1, 19, 4]).map(|(row, begun)| row[..begun].to_vec()).collect();
    for together in [1, 3, 4] {
        assert_eq!(sample(begun.clone(), together).expect("sequences"), drawn, "{together} at a time");
    }
    let other: Vec<Vec<u32>> = begun.iter().map(|row| row.iter().map(|id| (id + 1) % 40).collect()).collect();
    let found = sample(other.clone(), 4).expect("sequences");
    for ((row, start), drawn) in found.iter().zip(&other).zip(&drawn) {
        assert_eq!((&row[..start.len()], row.len()), (start.as_slice(), 20));
        assert_ne!(row[start.len()..], drawn[start.len()..]);
    }
    assert!(sample(vec![Vec::new()], 1).is_err());
}
