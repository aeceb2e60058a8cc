//! Is the head the one that transformers uses: the embedding, or one of its own, under whatever names they are stored?

mod support;

use std::{fs, path::Path};

use half::bf16;
use serde_json::{Value, json};
use slicegpt_gpu::{checkpoint::Dtype, eval, gpu::Gpu, model::Model, progress::Silent};
use support::{Tensors, copy_of, set_fields, tensors, write_tensors};

/// The logits of the first row of a fixture's tokens, in the model of a directory.
fn logits(gpu: &Gpu, directory: &Path) -> Vec<f32> {
    let model = Model::open(directory).unwrap_or_else(|error| panic!("{error}"));
    let rows = vec![support::tokens(&directory.join("tokens.json"))[0].clone()];
    let mut all = Vec::new();
    let collect = |_, values| {
        all = values;
        Ok(())
    };
    eval::logits(gpu, &model, &rows, &Silent, collect).expect("logits");
    all
}

fn recorded(directory: &Path) -> Vec<f32> {
    support::tensor(&directory.join("logits.safetensors"), "logits.0")
}

fn notes(directory: &Path) -> Vec<String> {
    Model::open(directory).expect("a model").store.notes().map(str::to_owned).collect()
}

fn edit(directory: &Path, metadata: &[(&str, &str)], change: impl FnOnce(&mut Tensors)) {
    let path = directory.join("model.safetensors");
    let mut all = tensors(&path);
    change(&mut all);
    write_tensors(&path, &all, metadata);
}

const TIED: [(&str, &str, &str); 7] = [
    ("llama_gqa_tied", "model.embed_tokens.weight", "lm_head.weight"),
    ("qwen2_gqa_tied", "model.embed_tokens.weight", "lm_head.weight"),
    ("qwen3_tied", "model.embed_tokens.weight", "lm_head.weight"),
    ("phi3_tied", "model.embed_tokens.weight", "lm_head.weight"),
    ("opt_relu", "model.decoder.embed_tokens.weight", "lm_head.weight"),
    ("gpt2_tied", "transformer.wte.weight", "lm_head.weight"),
    ("gpt_neox_tied", "gpt_neox.embed_in.weight", "embed_out.weight"),
];

#[test]
fn a_head_that_differs_from_a_tied_embedding_is_used_and_that_is_said() {
    let gpu = support::gpu();
    let untied = [
        "llama_mha_untied",
        "mistral_window",
        "qwen3_untied",
        "phi_gqa",
        "phi3_gqa",
        "opt_untied",
        "gpt2_untied",
        "gpt_neox_parallel",
    ];
    for fixture in untied {
        let scene = copy_of(fixture);
        // The default of OPT and GPT-2 is true.
        for tied in [json!(true), Value::Null] {
            if tied.is_null() && !fixture.starts_with("opt") && !fixture.starts_with("gpt2") {
                continue;
            }
            set_fields(scene.path(), &[("tie_word_embeddings", tied)]);
            // What transformers gives for the same file with false in it, and, as it says itself, for this one.
            let error = support::relative_error(&logits(&gpu, scene.path()), &recorded(scene.path()));
            assert!(error <= 1e-5, "{fixture}: {error:.1e}");
            let notes = notes(scene.path());
            assert!(
                notes.len() == 1
                    && notes[0].contains("differs from")
                    && notes[0].contains("used as it is, as transformers does"),
                "{notes:?}"
            );
            let model = Model::open(scene.path()).expect("a model");
            let stored: usize = tensors(&scene.path().join("model.safetensors"))
                .values()
                .map(|(_, shape, _)| shape.iter().product::<usize>())
                .sum();
            assert_eq!(
                (model.config().parameters(), &model.config().raw["tie_word_embeddings"]),
                (stored as u64, &json!(false)),
                "{fixture}"
            );
        }
    }
}

#[test]
fn a_tied_head_is_found_under_either_name_and_next_to_its_copy() {
    let gpu = support::gpu();
    for (fixture, embedding, head) in TIED {
        let same = |claim: &str, metadata: &[(&str, &str)], tied: Option<bool>, change: &dyn Fn(&mut Tensors)| {
            let scene = copy_of(fixture);
            edit(scene.path(), metadata, |all| {
                all.remove(head);
                change(all);
            });
            if let Some(tied) = tied {
                set_fields(scene.path(), &[("tie_word_embeddings", json!(tied))]);
            }
            let error = support::relative_error(&logits(&gpu, scene.path()), &recorded(scene.path()));
            assert!(error <= 1e-5, "{fixture}, {claim}: {error:.1e}");
            assert_eq!(notes(scene.path()), Vec::<String>::new(), "{fixture}, {claim}");
            let model = Model::open(scene.path()).expect("a model");
            assert!(
                model.config().tie_word_embeddings && model.store.unexpected().is_empty(),
                "{fixture}, {claim}: {:?}",
                model.store.unexpected()
            );
        };
        let base = embedding.split('.').next().expect("a first part");
        same("a copy of it", &[], None, &|all| drop(all.insert(head.into(), all[embedding].clone())));
        same("a copy with the first part before it", &[], None, &|all| {
            drop(all.insert(format!("{base}.{head}"), all[embedding].clone()))
        });
        same("the head alone", &[], None, &|all| {
            let moved = all.remove(embedding).expect("the embedding");
            all.insert(head.into(), moved);
        });
        same("the head left out by safetensors", &[(head, embedding)], None, &|_| {});
        same(
            "the head left out by safetensors of a model that is not tied",
            &[(head, embedding)],
            Some(false),
            &|_| {},
        );
        same("the embedding left out by safetensors", &[(embedding, head)], Some(false), &|all| {
            let moved = all.remove(embedding).expect("the embedding");
            all.insert(head.into(), moved);
        });
    }
}

#[test]
fn types_that_differ_are_compared_by_value() {
    let scene = copy_of("llama_gqa_tied");
    edit(scene.path(), &[], |all| {
        let (dtype, shape, mut bytes) = all["model.embed_tokens.weight"].clone();
        bytes[..4].copy_from_slice(&(-0f32).to_le_bytes());
        all.insert("lm_head.weight".into(), (dtype, shape, bytes));
        all.get_mut("model.embed_tokens.weight").expect("the embedding").2[..4].copy_from_slice(&0f32.to_le_bytes());
    });
    assert!(Model::open(scene.path()).expect("a model").config().tie_word_embeddings, "-0 is 0");
    let scene = copy_of("llama_bf16");
    set_fields(scene.path(), &[("tie_word_embeddings", json!(true))]);
    for (factor, equal) in [(1.0, true), (1.001, false)] {
        edit(scene.path(), &[], |all| {
            let (_, shape, bytes) = all["model.embed_tokens.weight"].clone();
            let widened = bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32() * factor);
            all.insert("lm_head.weight".into(), (Dtype::F32, shape, widened.flat_map(f32::to_le_bytes).collect()));
        });
        let model = Model::open(scene.path()).expect("a model");
        assert_eq!(
            (model.config().tie_word_embeddings, model.store.notes().count()),
            (equal, usize::from(!equal)),
            "times {factor}"
        );
    }
}

#[test]
fn heads_that_are_missing_are_refused_with_what_the_files_are() {
    let refusal = |directory: &Path| {
        let error = Model::open(directory).err().expect("a refusal");
        assert_eq!(error.exit_code(), 3, "{error}");
        error.to_string()
    };
    let scene = copy_of("llama_mha_untied");
    edit(scene.path(), &[], |all| drop(all.remove("lm_head.weight")));
    let message = refusal(scene.path());
    assert!(
        message.contains("tensor lm_head.weight in") && message.contains("set \"tie_word_embeddings\": true there"),
        "{message}"
    );
    edit(scene.path(), &[], |all| drop(all.insert("score.weight".into(), (Dtype::F32, vec![1, 24], vec![0; 96]))));
    assert!(refusal(scene.path()).contains("this is a classifier (score.weight), which has no head that writes text"));
    set_fields(scene.path(), &[("tie_word_embeddings", json!(true))]);
    assert!(notes(scene.path())[0].contains("its score.weight is left out"), "{:?}", notes(scene.path()));
    for (base, name) in
        [("llama_mha_untied", "model.model.embed_tokens.weight"), ("gpt2_tied", "transformer.transformer.wte.weight")]
    {
        let scene = copy_of(base);
        edit(scene.path(), &[], |all| {
            let own = name.split_once('.').expect("a first part").1.to_owned();
            let mut other = all[&own].clone();
            all.insert(name.into(), other.clone());
            other.2[3] ^= 0x40;
            all.insert(own, other);
        });
        let message = refusal(scene.path());
        assert!(message.contains(&format!("it is also there as {name}, with other values")), "{message}");
    }
}

#[test]
fn names_with_the_first_part_left_out_doubled_or_renamed_load() {
    let gpu = support::gpu();
    for (fixture, claim, rename) in [
        ("llama_mha_untied", "the first part doubled", (|name: &str| format!("model.{name}")) as fn(&str) -> String),
        ("llama_mha_untied", "the first part left out", |name| name.replacen("model.", "", 1)),
        ("llama_mha_untied", "the first part left out in one layer", |name| name.replace("model.layers.0", "layers.0")),
        ("opt_untied", "the first part left out", |name| name.replacen("model.", "", 1)),
        ("gpt_neox_parallel", "the head under its newer name", |name| name.replace("embed_out", "lm_head")),
        ("gpt_neox_parallel", "the head under its newer name, in the model", |name| {
            name.replace("embed_out", "gpt_neox.lm_head")
        }),
    ] {
        let scene = copy_of(fixture);
        edit(scene.path(), &[], |all| {
            *all = std::mem::take(all).into_iter().map(|(name, tensor)| (rename(&name), tensor)).collect()
        });
        let error = support::relative_error(&logits(&gpu, scene.path()), &recorded(scene.path()));
        assert!(error <= 1e-5, "{fixture}, {claim}: {error:.1e}");
        assert_eq!(
            Model::open(scene.path()).expect("a model").store.unexpected(),
            Vec::<String>::new(),
            "{fixture}, {claim}"
        );
    }
}

#[test]
fn tensors_that_are_missing_are_explained() {
    let refusal = |change: &dyn Fn(Tensors) -> Tensors| {
        let scene = copy_of("llama_mha_untied");
        edit(scene.path(), &[], |all| *all = change(std::mem::take(all)));
        let error = Model::open(scene.path()).err().expect("a refusal");
        assert_eq!(error.exit_code(), 3, "{error}");
        error.to_string()
    };
    let renamed = |rename: fn(&str) -> String| {
        refusal(&|all| all.into_iter().map(|(name, tensor)| (rename(&name), tensor)).collect())
    };
    for (message, expected) in [
        (renamed(|name| format!("_orig_mod.{name}")), "with `_orig_mod.` in its name, which torch.compile puts there"),
        (renamed(|name| format!("module.{name}")), "with `module.` in its name, which DataParallel puts there"),
        (
            renamed(|name| format!("base_model.model.{name}")),
            "with `base_model.model.` in its name, which PEFT puts there",
        ),
        (
            renamed(|name| name.replace("self_attn", "_fsdp_wrapped_module.self_attn")),
            "with `_fsdp_wrapped_module.` in its name, which FSDP",
        ),
        (renamed(|name| format!("student.{name}")), "with `student.` before its name: take that out of the names"),
        (
            renamed(|name| name.replace("q_proj.weight", "q_proj.lora_A.weight")),
            "lora_A.weight: it holds a LoRA adapter; merge it",
        ),
        (
            renamed(|name| name.replace("q_proj.weight", "q_proj.qweight")),
            "q_proj.qweight: it is quantised; give the checkpoint",
        ),
        (
            renamed(|name| name.replace("model.embed_tokens", "tok_embeddings")),
            "tok_embeddings.weight: it is of another program's format",
        ),
        (
            refusal(&|all| all.into_iter().filter(|(name, _)| !name.contains("layers.2.")).collect()),
            "the files have 2 layers, where config.json says 3",
        ),
    ] {
        assert!(
            message.contains("missing; config.json implies") && message.contains(expected),
            "{expected}: {message}"
        );
    }
    let scene = copy_of("llama_sharded");
    let shard = fs::read_dir(scene.path())
        .expect("files")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.to_string_lossy().contains("-00002-of-"));
    let message = Model::open(&shard.expect("a shard")).err().expect("one shard").to_string();
    assert!(
        message.contains("this file is shard 2 of ") && message.contains("give the directory that has all of them"),
        "{message}"
    );
    let scene = copy_of("llama_mha_untied");
    set_fields(scene.path(), &[("vocab_size", Value::Null)]);
    let message = Model::open(scene.path()).err().expect("another shape").to_string();
    assert!(
        message.contains("config.json leaves out vocab_size, for which the defaults of transformers count"),
        "{message}"
    );
}
