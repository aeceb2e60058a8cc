//! Are configs that make no sense refused with the field's name?

use std::path::Path;

use serde_json::{Map, Value, json};
use slicegpt_gpu::{
    Error,
    model::{Config, GenerationConfig, StopTokens},
    slice::{Basis, Cut, Options, Plan},
};

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        other => panic!("{other} is no object"),
    }
}

fn parse(fields: Value) -> Result<Config, Error> {
    Config::from_fields(object(fields), Path::new("DIR/config.json"))
}

/// `base` with some fields changed.
fn with(mut base: Value, changes: Value) -> Value {
    let fields = base.as_object_mut().expect("an object");
    for (name, value) in object(changes) {
        fields.insert(name, value);
    }
    base
}

fn llama() -> Value {
    json!({
        "model_type": "llama", "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 26, "vocab_size": 67, "max_position_embeddings": 128
    })
}

fn opt() -> Value {
    json!({
        "model_type": "opt", "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 34, "vocab_size": 77,
        "max_position_embeddings": 37
    })
}

fn qwen2() -> Value {
    with(llama(), json!({ "model_type": "qwen2" }))
}

/// The message of the refusal, which has exit code 3 and names the file.
fn refusal(fields: Value) -> String {
    let error = parse(fields.clone()).err().unwrap_or_else(|| panic!("accepted: {fields}"));
    assert_eq!(error.exit_code(), 3, "{error}");
    assert!(error.to_string().contains("DIR/config.json"), "{error}");
    error.to_string()
}

#[test]
fn absurd_numbers_are_refused_by_the_name_of_their_field() {
    let absurd = [
        json!(0),
        json!(-1),
        json!(1e30),
        json!(2.5),
        json!("24"),
        json!(1u64 << 40),
        json!(u64::MAX),
        json!([24]),
        json!(true),
    ];
    for base in [llama(), opt()] {
        let middle = if base["model_type"] == "opt" { "ffn_dim" } else { "intermediate_size" };
        for field in
            ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings", middle]
        {
            // Rotary angles know no longest sequence.
            let no_limit = |value: &&Value| field == "max_position_embeddings" && value.as_i64() <= Some(0);
            for value in absurd.iter().filter(|value| base["model_type"] == "opt" || !no_limit(value)) {
                let message = refusal(with(base.clone(), json!({ field: value })));
                assert!(message.contains(&format!("{field}: expected a whole number")), "{value}: {message}");
            }
        }
    }
    for (field, values) in [
        ("num_key_value_heads", &absurd[..]),
        ("head_dim", &absurd),
        ("rms_norm_eps", &[json!(-1e-5), json!(1e6), json!("small"), json!(1e30)]),
        ("tie_word_embeddings", &[json!(1), json!("yes")]),
        ("attention_bias", &[json!(0)]),
        ("bos_token_id", &[json!(1u64 << 40), json!("a"), json!([[1]])]),
        ("eos_token_id", &[json!(1.5), json!(["a"])]),
        ("hidden_act", &[json!(7)]),
    ] {
        for value in values {
            let message = refusal(with(llama(), json!({ field: value })));
            assert!(message.contains(field), "{field} = {value}: {message}");
        }
    }
    for (field, value) in
        [("sliding_window", json!(-4)), ("use_sliding_window", json!("no")), ("max_window_layers", json!("all"))]
    {
        let message = refusal(with(
            with(qwen2(), json!({ "use_sliding_window": true, "sliding_window": 8, "max_window_layers": 0 })),
            json!({ field: value }),
        ));
        assert!(message.contains(field), "{message}");
    }
    let message =
        refusal(with(llama(), json!({ "num_attention_heads": 8192, "num_key_value_heads": 8192, "head_dim": 256 })));
    assert!(message.contains("8192 heads of 256 are absurd"), "{message}");
    let message = refusal(with(llama(), json!({ "hidden_act": 7 })));
    assert!(message.contains("hidden_act: expected the name of a function, found 7"), "{message}");
    let message = refusal(with(llama(), json!({ "head_dim": 320 })));
    assert!(message.contains("unsupported head_dim = 320"), "{message}");
    let long = "x".repeat(100_000);
    assert!(refusal(with(llama(), json!({ "hidden_size": long }))).len() < 400, "values are shown shortened");
}

#[test]
fn sizes_that_are_null_are_refused_and_other_nulls_are_missing() {
    for field in [
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
    ] {
        let message = refusal(with(llama(), json!({ field: null })));
        assert!(
            message.contains(&format!("{field}: expected a whole number")) && message.ends_with("found null"),
            "{message}"
        );
    }
    for field in
        ["num_key_value_heads", "head_dim", "rms_norm_eps", "hidden_act", "tie_word_embeddings", "attention_bias"]
    {
        let mut absent = llama();
        absent.as_object_mut().expect("an object").remove(field);
        let shape = |config: Config| (config.layers.clone(), config.norm_eps, config.parameters());
        let expected = shape(parse(absent).expect("a config without it"));
        assert_eq!(
            shape(parse(with(llama(), json!({ field: null }))).expect("a config with null")),
            expected,
            "{field}"
        );
    }
    let nulls = json!({
        "quantization_config": null, "attn_logit_softcapping": null, "rope_scaling": null, "rope_parameters": null, "layer_types": null,
        "sliding_window": null, "bos_token_id": null, "eos_token_id": null, "num_experts": null, "rope_theta": null, "word_embed_proj_dim": null
    });
    let config = parse(with(llama(), nulls)).expect("a config of nulls");
    assert_eq!(config.ropes, parse(llama()).expect("a config").ropes);
    assert_eq!((config.bos_token_id, config.eos_token_ids), (None, vec![]));
    parse(with(opt(), json!({ "do_layer_norm_before": null, "word_embed_proj_dim": null, "enable_bias": null })))
        .expect("an OPT of nulls");
}

#[test]
fn heads_must_divide() {
    let message = refusal(with(llama(), json!({ "num_attention_heads": 5, "num_key_value_heads": 5 })));
    assert!(message.contains("5 attention heads do not divide hidden_size 24"), "{message}");
    let message = refusal(with(llama(), json!({ "num_key_value_heads": 3 })));
    assert!(message.contains("4 attention heads cannot share 3 key-value heads"), "{message}");
    let message = refusal(with(llama(), json!({ "num_key_value_heads": 8 })));
    assert!(message.contains("4 attention heads cannot share 8 key-value heads"), "{message}");
    let message = refusal(
        json!({ "model_type": "gpt2", "n_embd": 24, "n_head": 5, "n_layer": 1, "n_positions": 8, "vocab_size": 9 }),
    );
    assert!(message.contains("5 attention heads do not divide n_embd 24"), "{message}");
    let config = parse(with(llama(), json!({ "num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": 10 })))
        .expect("an explicit head_dim");
    assert_eq!((config.layers[0].head_dim, config.layers[0].qkv_width()), (10, 150));
}

#[test]
fn an_unknown_model_type_is_refused_with_the_known_ones() {
    let message = refusal(with(llama(), json!({ "model_type": "foo" })));
    let known: Vec<&str> = slicegpt_gpu::model::architecture::ARCHITECTURES.iter().map(|row| row.model_type).collect();
    assert!(message.starts_with("unknown model_type \"foo\" in DIR/config.json; known: llama, mistral, "), "{message}");
    let listed: Vec<&str> = message.split_once("known: ").expect("a list").1.split(", ").collect();
    assert!(known.iter().all(|kind| listed.iter().filter(|other| other == &kind).count() == 1), "{message}");
    for near in ["Llama", "llama ", "llama2", "gemma4", "sliced_foo", "sliced_sliced_llama", ""] {
        assert!(refusal(with(llama(), json!({ "model_type": near }))).contains("unknown model_type"), "{near}");
    }
    assert!(refusal(with(llama(), json!({ "model_type": "x".repeat(100_000) }))).len() < 600, "shown shortened");
    for other in [json!(3), json!(null), json!(["llama"])] {
        assert!(refusal(with(llama(), json!({ "model_type": other }))).contains("model_type: expected a string"));
    }
}

#[test]
fn fields_that_change_the_maths_are_refused_by_name() {
    for (base, field, value) in [
        (opt(), "do_layer_norm_before", json!(false)),
        (opt(), "_remove_final_layer_norm", json!(true)),
        (opt(), "word_embed_proj_dim", json!(12)),
        (llama(), "hidden_act", json!("quick_gelu")),
        (opt(), "activation_function", json!("mish")),
        (llama(), "attn_logit_softcapping", json!(50.0)),
        (llama(), "final_logit_softcapping", json!(30.0)),
        (llama(), "quantization_config", json!({ "quant_method": "gptq", "bits": 4 })),
        (llama(), "num_local_experts", json!(8)),
        (llama(), "logit_scale", json!(0.5)),
        (llama(), "residual_multiplier", json!(0.22)),
        (llama(), "embedding_multiplier", json!(12)),
        (llama(), "attention_multiplier", json!(0.1)),
        (llama(), "clip_qkv", json!(8.0)),
        (llama(), "alibi", json!(true)),
        (llama(), "no_rope_layers", json!([1, 0])),
        (llama(), "attention_chunk_size", json!(8192)),
        (llama(), "is_encoder_decoder", json!(true)),
        (qwen2(), "kv_lora_rank", json!(512)),
    ] {
        let message = refusal(with(base, json!({ field: value })));
        assert!(message.contains(&format!("unsupported {field} = ")), "{message}");
    }
    for kind in ["longrope", "su", "ntk", "mrope"] {
        for (section, name) in
            [("rope_scaling", "type"), ("rope_scaling", "rope_type"), ("rope_parameters", "rope_type")]
        {
            let message = refusal(with(llama(), json!({ section: { name: kind, "factor": 2.0 } })));
            assert!(message.contains(&format!("unsupported {section}.rope_type = \"{kind}\"")), "{message}");
        }
    }
    let message = refusal(with(
        qwen2(),
        json!({ "use_sliding_window": true, "layer_types": ["full_attention", "chunked_attention"] }),
    ));
    assert!(message.contains("unsupported layer_types = \"chunked_attention\""), "{message}");
    let message = refusal(with(llama(), json!({ "layer_types": ["full_attention", "sliding_attention"] })));
    assert!(
        message.contains("unsupported layer_types = \"sliding_attention\"") && message.contains("every layer"),
        "{message}"
    );
    let message = refusal(with(qwen2(), json!({ "layer_types": ["full_attention"] })));
    assert!(message.contains("layer_types: expected a name for each layer"), "{message}");
    for neutral in [
        json!({ "logit_scale": 1.0 }),
        json!({ "logits_scaling": 1 }),
        json!({ "alibi": false }),
        json!({ "is_encoder_decoder": false }),
    ] {
        parse(with(llama(), neutral)).expect("neutral values");
    }
}

#[test]
fn rotary_numbers_that_make_no_angles_are_refused() {
    let llama3 = json!({ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0 });
    let yarn = json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32 });
    for good in [&llama3, &yarn] {
        parse(with(llama(), json!({ "rope_parameters": good }))).expect("good numbers");
    }
    for (case, expected) in [
        (json!({ "rope_theta": 0 }), "theta 0"),
        (json!({ "rope_theta": -1 }), "theta -1"),
        (json!({ "rope_theta": "10000" }), "rope_theta: expected a number"),
        (json!({ "model_type": "phi3", "partial_rotary_factor": 1.5 }), "make no pairs"),
        (json!({ "model_type": "phi3", "partial_rotary_factor": -0.5 }), "make no pairs"),
        (json!({ "head_dim": 5 }), "make no pairs"),
        (json!({ "rope_scaling": "linear" }), "rope_scaling: expected an object"),
        (json!({ "rope_scaling": { "type": 5 } }), "rope_scaling.rope_type: expected a string, found 5"),
        (json!({ "rope_scaling": { "type": "linear" } }), "rope_scaling.factor: expected a positive number"),
        (json!({ "rope_scaling": { "type": "linear", "factor": 0 } }), "rope_scaling.factor"),
        (json!({ "rope_scaling": { "type": "linear", "factor": -2 } }), "rope_scaling.factor"),
        (json!({ "rope_scaling": { "type": "linear", "factor": 1e-60 } }), "not finite"),
        (json!({ "rope_theta": 1e-300 }), "not finite"),
        (
            json!({ "rope_parameters": with(llama3.clone(), json!({ "low_freq_factor": 0 })) }),
            "low_freq_factor: expected another number than 0",
        ),
        (
            json!({ "rope_parameters": with(llama3.clone(), json!({ "high_freq_factor": "4" })) }),
            "high_freq_factor: expected a number",
        ),
        (json!({ "rope_parameters": with(llama3, json!({ "factor": "8" })) }), "factor: expected a number"),
        (json!({ "rope_parameters": with(yarn.clone(), json!({ "factor": -1 })) }), "rope_parameters.factor"),
        (
            json!({ "model_type": "gpt_neox", "rope_parameters": with(yarn.clone(), json!({ "partial_rotary_factor": 0.5 })) }),
            "yarn of 3 coordinates, an odd number",
        ),
        (json!({ "rope_parameters": with(yarn, json!({ "attention_factor": 1e300 })) }), "not finite"),
    ] {
        let message = refusal(with(llama(), case.clone()));
        assert!(message.contains(expected), "{case}: {message}");
    }
}

/// The fields of `config` sliced at 50 %, with changes in its slicing section.
fn sliced(changes: Value) -> Value {
    let config = parse(with(llama(), json!({ "num_hidden_layers": 3 }))).expect("a config");
    let plan = Plan::new(&config, &Options { cut: Cut::Sparsity(0.5), round_interval: Some(8), ..Options::default() })
        .expect("a plan");
    let mut fields = Value::Object(plan.config.raw);
    fields["slicing"] = with(fields["slicing"].clone(), changes);
    fields
}

#[test]
fn a_sliced_config_needs_a_slicing_section_that_fits() {
    let config = parse(sliced(json!({}))).expect("what the plan makes");
    assert!(
        config.fused() && config.hidden_size == 24 && config.widths(0).output == 8 && config.widths(2).output == 24
    );
    let mut without = sliced(json!({}));
    without.as_object_mut().expect("an object").remove("slicing");
    assert!(refusal(without).contains("a sliced model without its slicing section"));
    assert!(refusal(with(sliced(json!({})), json!({ "slicing": null }))).contains("slicing"));
    assert!(refusal(with(sliced(json!({})), json!({ "slicing": [1] }))).contains("slicing: "));
    let layers = |widths: [[i64; 3]; 3]| json!({ "layers": widths.map(|[attention_input, mlp_input, output]| json!({ "attention_input": attention_input, "mlp_input": mlp_input, "output": output })) });
    let good = [[8, 8, 8], [8, 8, 8], [8, 8, 24]];
    parse(sliced(layers(good))).expect("widths that fit");
    parse(sliced(layers([[8, 9, 10], [10, 11, 12], [12, 13, 14]]))).expect("other widths that fit");
    for (claim, widths) in [
        ("widths not chained", [[8, 8, 8], [9, 8, 8], [8, 8, 24]]),
        ("zero width", [[8, 0, 8], [8, 8, 8], [8, 8, 24]]),
        ("zero input", [[0, 8, 8], [8, 8, 8], [8, 8, 24]]),
        ("zero output", [[8, 8, 8], [8, 8, 8], [8, 8, 0]]),
        ("wider than the norm", [[8, 25, 8], [8, 8, 8], [8, 8, 24]]),
        ("head too wide", [[8, 8, 8], [8, 8, 8], [8, 8, 32]]),
    ] {
        let message = refusal(sliced(layers(widths)));
        assert!(message.contains("slicing: widths do not fit 3 layers of 24"), "{claim}: {message}");
    }
    assert!(refusal(sliced(layers([[8, -8, 8], [8, 8, 8], [8, 8, 24]]))).contains("slicing: invalid value"));
    assert!(refusal(sliced(json!({ "layers": [] }))).contains("do not fit 3 layers"));
    assert!(refusal(sliced(json!({ "norm_width": 23 }))).contains("do not fit"));
    assert!(refusal(sliced(json!({ "norm_width": 8 }))).contains("do not fit"));
    assert!(refusal(sliced(json!({ "norm_width": "24" }))).contains("slicing: invalid type"));
    assert!(refusal(with(sliced(json!({})), json!({ "num_hidden_layers": 2 }))).contains("do not fit 2 layers"));
    let mut incomplete = sliced(json!({}));
    incomplete["slicing"].as_object_mut().expect("an object").remove("layers");
    assert!(refusal(incomplete).contains("missing field `layers`"));
}

#[test]
fn config_files_that_are_no_json_objects_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("config.json");
    assert!(matches!(Config::load(&path), Err(Error::Read { .. })));
    let deep = "[".repeat(100_000);
    for bytes in [
        b"".as_slice(),
        b"[]",
        b"3",
        b"null",
        b"{\"model_type\": ",
        b"{\"model_type\": \"\xff\"}",
        b"\x00\x01",
        deep.as_bytes(),
    ] {
        std::fs::write(&path, bytes).expect("a file");
        let error = Config::load(&path).expect_err("no object");
        assert!(matches!(error, Error::BadFile { .. }) && error.to_string().contains("config.json: "), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn a_pipe_or_a_device_in_the_place_of_a_file_of_a_model_is_refused_without_waiting() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("config.json");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo").success());
    let error = Config::load(&path).expect_err("a pipe");
    assert!(error.exit_code() == 3 && error.to_string().contains("config.json: not a regular file"), "{error}");
    let generation = GenerationConfig::load(&path).expect_err("a pipe");
    assert!(generation.to_string().contains("config.json: not a regular file"), "{generation}");
    std::fs::remove_file(&path).expect("a pipe");
    std::os::unix::fs::symlink("/dev/zero", &path).expect("a link");
    assert!(Config::load(&path).expect_err("a device").to_string().contains("config.json: not a regular file"));
    std::fs::remove_file(&path).expect("a link");
    // As large as memory would have to be.
    std::fs::File::create(&path).and_then(|file| file.set_len(1 << 42)).expect("a file with a hole");
    let error = Config::load(&path).expect_err("a hole");
    assert!(error.to_string().contains("4398046511104 bytes, and no such file has more than"), "{error}");
}

#[test]
fn partial_rotary_counts_only_where_the_architecture_knows_it() {
    let whole = parse(llama()).expect("a config").ropes;
    for place in [
        json!({ "partial_rotary_factor": 0.5 }),
        json!({ "rope_parameters": { "rope_type": "default", "partial_rotary_factor": 0.5 } }),
    ] {
        assert_eq!(parse(with(llama(), place)).expect("a config").ropes, whole, "llama turns whole heads");
    }
    let scaled = json!({ "rope_scaling": { "type": "linear", "factor": 2.0 }, "partial_rotary_factor": 0.5 });
    assert!(refusal(with(llama(), scaled)).contains("unsupported partial_rotary_factor = 0.5"));
}

#[test]
fn absent_windows_and_key_value_heads_are_those_of_the_architecture() {
    let mut fields = with(llama(), json!({ "model_type": "mistral", "num_attention_heads": 8, "head_dim": 4 }));
    fields.as_object_mut().expect("an object").remove("num_key_value_heads");
    let config = parse(fields.clone()).expect("a config");
    assert_eq!((config.layers[0].kv_heads, config.layers[0].window), (8, Some(4096)));
    assert_eq!(parse(with(fields, json!({ "sliding_window": null }))).expect("a config").layers[0].window, None);
}

#[test]
fn fields_that_only_gpt2_reads_change_no_other_model() {
    let off = json!({ "scale_attn_weights": false, "scale_attn_by_inverse_layer_idx": true });
    let scales = |fields: Value| {
        parse(fields).expect("a config").layers.iter().map(|layer| layer.attention_scale).collect::<Vec<_>>()
    };
    for base in [llama(), opt(), qwen2(), with(llama(), json!({ "model_type": "starcoder2" }))] {
        assert_eq!(scales(with(base.clone(), off.clone())), scales(base));
    }
    let gpt2 = json!({ "model_type": "gpt2", "n_embd": 24, "n_layer": 2, "n_head": 4, "vocab_size": 67 });
    assert_eq!(scales(with(gpt2, off)), [1.0, 0.5]);
}

#[test]
fn windows_of_listed_layers_count_for_smollm3_whatever_switches_them_off() {
    let base = with(llama(), json!({ "model_type": "smollm3", "sliding_window": 5, "use_sliding_window": false }));
    let windows =
        |fields: Value| parse(fields).expect("a config").layers.iter().map(|layer| layer.window).collect::<Vec<_>>();
    assert_eq!(windows(base.clone()), [None, None]);
    let listed = json!({ "layer_types": ["sliding_attention", "full_attention"] });
    assert_eq!(windows(with(base, listed)), [Some(5), None]);
}

#[test]
fn ids_that_only_the_class_of_a_config_has_end_no_text() {
    let stops = |fields: Value| StopTokens::new(&parse(fields).expect("a config"), &Default::default(), None, None);
    let silent = parse(llama()).expect("a config");
    assert_eq!((silent.bos_token_id, silent.eos_token_ids), (Some(1), vec![2]), "the class has some");
    assert_eq!(stops(llama()), StopTokens::default());
    let named = stops(with(llama(), json!({ "bos_token_id": 1, "eos_token_id": 2 })));
    assert_eq!((named.bos, named.eos), (Some(1), vec![2]));
}

#[test]
fn multipliers_that_the_signals_are_divided_by_are_refused_and_others_may_be_anything() {
    let granite = |field: &str, value: Value| with(llama(), json!({ "model_type": "granite", field: value }));
    for (field, value) in
        [("residual_multiplier", json!(0)), ("residual_multiplier", json!(-2.0)), ("logits_scaling", json!(0))]
    {
        let message = refusal(granite(field, value));
        assert!(message.contains(&format!("unsupported {field} = ")) && message.contains("divided"), "{message}");
    }
    for factor in [0.0f32, -2.0] {
        let config = parse(granite("attention_multiplier", json!(factor))).expect("a config");
        assert_eq!(config.layers[0].attention_scale, factor);
        assert_eq!(parse(granite("embedding_multiplier", json!(factor))).expect("a config").embedding_scale, factor);
    }
    assert_eq!(parse(granite("logits_scaling", json!(-2))).expect("a config").logit_scale, -0.5);
}

#[test]
fn windows_of_listed_layers_are_no_part_of_a_sliced_mistral() {
    let mistral = |types: [&str; 2]| {
        let types = types.map(|kind| format!("{kind}_attention"));
        parse(with(llama(), json!({ "model_type": "mistral", "sliding_window": 8, "layer_types": types })))
            .expect("a config")
    };
    let plan = |config: &Config, basis: Basis| {
        let options =
            Options { cut: Cut::Sparsity(0.5), round_interval: Some(8), basis, slice_head: true, ..Options::default() };
        Plan::new(config, &options).map(|plan| plan.config.layers[1].window)
    };
    let (mixed, all) = (mistral(["full", "sliding"]), mistral(["sliding", "sliding"]));
    assert_eq!(mixed.layers.iter().map(|layer| layer.window).collect::<Vec<_>>(), [None, Some(8)]);
    let error = plan(&mixed, Basis::PerBlock).expect_err("the class gives every layer the window").to_string();
    assert!(error.contains("layer_types") && error.contains("--basis shared"), "{error}");
    assert_eq!(plan(&mixed, Basis::SHARED).expect("an ordinary checkpoint"), Some(8));
    assert_eq!(plan(&all, Basis::PerBlock).expect("windows of the class"), Some(8));
}
