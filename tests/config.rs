//! Are configs that make no sense refused with the field's name, and do counts and widths come out as published?

use std::path::Path;

use serde_json::{Map, Value, json};
use slicegpt_gpu::{
    Error,
    checkpoint::Dtype,
    model::{
        Config,
        architecture::{ARCHITECTURES, Fields},
    },
    slice::{Cut, Options, Plan, sliced_width},
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
            for value in &absurd {
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
    assert_eq!(
        message,
        "unknown model_type \"foo\" in DIR/config.json; known: llama, mistral, qwen2, qwen3, smollm3, granite, starcoder2, phi, phi3, opt, gpt2, gptj, gpt_neox"
    );
    for near in ["Llama", "llama ", "llama2", "gemma", "sliced_foo", "sliced_sliced_llama", ""] {
        assert!(refusal(with(llama(), json!({ "model_type": near }))).contains("unknown model_type"), "{near}");
    }
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
    assert!(message.contains("layer_types: llama has no sliding attention"), "{message}");
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
        (json!({ "model_type": "phi3", "partial_rotary_factor": 0 }), "make no pairs"),
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
            json!({ "rope_parameters": with(llama3.clone(), json!({ "low_freq_factor": 4.0 })) }),
            "low_freq_factor 4 is not below",
        ),
        (json!({ "rope_parameters": with(llama3, json!({ "factor": "8" })) }), "factor: expected a number"),
        (json!({ "rope_parameters": with(yarn.clone(), json!({ "factor": -1 })) }), "rope_parameters.factor"),
        (json!({ "rope_parameters": with(yarn, json!({ "attention_factor": 1e300 })) }), "not finite"),
    ] {
        let message = refusal(with(llama(), case.clone()));
        assert!(message.contains(expected), "{case}: {message}");
    }
}

/// The fields of `config` sliced at 50 %, with changes in its slicing section.
fn sliced(changes: Value) -> Value {
    let config = parse(with(llama(), json!({ "num_hidden_layers": 3 }))).expect("a config");
    let plan = Plan::new(&config, &options(0.5), "0123").expect("a plan");
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

fn options(sparsity: f64) -> Options {
    Options { cut: Cut::Sparsity(sparsity), round_interval: Some(8), dtype: Dtype::F16.into(), ..Options::default() }
}

fn plan(fields: &Value, sparsity: f64) -> Plan {
    Plan::new(&parse(fields.clone()).expect("a config"), &options(sparsity), "").expect("a plan")
}

fn opt_125m() -> Value {
    json!({
        "model_type": "opt", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "ffn_dim": 3072, "vocab_size": 50272,
        "max_position_embeddings": 2048
    })
}

fn phi_2() -> Value {
    json!({
        "model_type": "phi", "hidden_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 10240,
        "vocab_size": 51200, "max_position_embeddings": 2048
    })
}

fn llama_2_7b() -> Value {
    json!({
        "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 11008,
        "vocab_size": 32000, "max_position_embeddings": 4096
    })
}

fn llama_3_8b() -> Value {
    json!({
        "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "intermediate_size": 14336, "vocab_size": 128_256, "max_position_embeddings": 8192
    })
}

#[test]
fn parameters_are_counted_as_published() {
    let dense = plan(&opt_125m(), 0.2);
    assert_eq!((dense.original_parameters, dense.fused_parameters), (125_239_296, 163_860_064));
    assert_eq!((dense.width, dense.sliced_parameters), (608, 147_250_880));
    let dense = plan(&phi_2(), 0.2);
    assert_eq!((dense.width, dense.fused_parameters, dense.sliced_parameters), (2048, 2_779_514_880, 2_391_772_160));
    assert_eq!(plan(&llama_2_7b(), 0.2).original_parameters, 6_738_415_616);
    assert_eq!(plan(&llama_3_8b(), 0.2).original_parameters, 8_030_261_248);
    assert_eq!(plan(&opt_125m(), 0.2).byte_len(), 2 * 147_250_880);
}

#[test]
fn the_share_removed_is_as_published() {
    // Percent of the fused model removed at each sparsity, to the digits of the table in the description of the method.
    for (name, fields, fused, rows) in [
        ("Llama-2-7B", llama_2_7b(), 6_738_149_376, [(0.1, -2.99), (0.2, 9.38), (0.25, 15.34), (0.3, 21.45)]),
        ("Llama-3-8B", llama_3_8b(), 8_029_995_008, [(0.1, -1.39), (0.2, 10.09), (0.25, 15.62), (0.3, 21.31)]),
        ("Phi-2", phi_2(), 2_779_514_880, [(0.1, 3.28), (0.2, 13.95), (0.25, 19.23), (0.3, 24.48)]),
        ("OPT-125m", opt_125m(), 163_860_064, [(0.1, 0.84), (0.2, 10.14), (0.25, 13.80), (0.3, 18.35)]),
    ] {
        for (sparsity, percent) in rows {
            let plan = plan(&fields, sparsity);
            assert_eq!(plan.fused_parameters, fused, "{name}");
            let removed = 100.0 * (1.0 - plan.sliced_parameters as f64 / plan.fused_parameters as f64);
            assert!(
                (removed - percent).abs() <= 0.005 + 1e-9,
                "{name} at {sparsity}: {removed:.4} %, published {percent}"
            );
        }
    }
}

#[test]
fn small_tied_models_grow_as_published() {
    let llama_1b = json!({
        "model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
        "intermediate_size": 8192, "vocab_size": 128_256, "max_position_embeddings": 131_072, "tie_word_embeddings": true
    });
    let qwen_half_b = json!({
        "model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
        "intermediate_size": 4864, "vocab_size": 151_936, "max_position_embeddings": 32_768, "tie_word_embeddings": true
    });
    for (fields, original, growth) in [(llama_1b, 1_235_814_400, 2.8), (qwen_half_b, 494_032_768, 7.2)] {
        let plan = plan(&fields, 0.25);
        assert_eq!(plan.original_parameters, original);
        let grown = 100.0 * (plan.sliced_parameters as f64 / plan.original_parameters as f64 - 1.0);
        assert!((grown - growth).abs() <= 0.05 + 1e-9, "{grown:.3} %, published {growth}");
    }
}

#[test]
fn a_sliced_config_keeps_all_fields_and_cannot_be_sliced_again() {
    let fields = with(
        opt_125m(),
        json!({ "torch_dtype": "float32", "architectures": ["OPTForCausalLM"], "unknown": { "x": [1, null] } }),
    );
    let plan = plan(&fields, 0.25);
    for (name, value) in object(fields) {
        let expected = match name.as_str() {
            "model_type" => json!("sliced_opt"),
            "torch_dtype" => json!("float16"),
            // The class of transformers that loads it is another one now.
            "architectures" => json!(["SlicedOPTForCausalLM"]),
            _ => value,
        };
        assert_eq!(plan.config.raw[&name], expected, "{name}");
    }
    let error = Plan::new(&plan.config, &options(0.1), "").expect_err("sliced already");
    assert!(error.exit_code() == 2 && error.to_string().contains("sliced already"), "{error}");
    let again = Config::from_fields(plan.config.raw.clone(), Path::new("config.json")).expect("its own config");
    assert_eq!(again.tensors(), plan.config.tensors());
}

#[test]
fn a_sliced_config_names_classes_that_the_python_files_beside_it_define() {
    for architecture in ARCHITECTURES {
        let Fields {
            hidden_size,
            num_hidden_layers,
            num_attention_heads,
            intermediate_size,
            max_position_embeddings,
            ..
        } = architecture.fields;
        let sizes = json!({
            "model_type": architecture.model_type, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, "num_key_value_heads": 4,
            intermediate_size: 48, "rotary_dim": 4, "vocab_size": 50, max_position_embeddings: 64, "auto_map": { "AutoTokenizer": "somebody_elses.Tokenizer" }
        });
        let dense = parse(sizes.clone()).expect("a config");
        assert!(dense.python_files().is_empty(), "transformers knows {} itself", architecture.model_type);
        let config = plan(&sizes, 0.25).config;
        let auto_map = config.raw["auto_map"].as_object().expect("an object");
        assert_eq!(auto_map.keys().collect::<Vec<_>>(), ["AutoConfig", "AutoModelForCausalLM"]);
        let files = config.python_files();
        for place in auto_map.values() {
            let (file, class) = place.as_str().and_then(|place| place.split_once('.')).expect("file.Class");
            let (_, text) = files.iter().find(|(name, _)| *name == format!("{file}.py")).expect("a file of that name");
            assert!(text.contains(&format!("\nclass {class}(")), "{file} defines no {class}");
            for imported in text.lines().filter_map(|line| line.strip_prefix("from .")?.split_once(" import ")) {
                assert!(
                    files.iter().any(|(name, _)| *name == format!("{}.py", imported.0)),
                    "{file} imports {}",
                    imported.0
                );
            }
        }
        let (_, configuration) = files[0];
        assert!(configuration.contains(&format!("model_type = \"sliced_{}\"", architecture.model_type)));
        assert_eq!(
            config.raw["architectures"][0].as_str(),
            auto_map["AutoModelForCausalLM"].as_str().and_then(|place| place.split('.').nth(1))
        );
    }
}

#[test]
fn widths_do_not_fall_into_float_traps() {
    // (1 − k/1000)·D in integers, over every sparsity of three digits.
    for hidden_size in [10, 24, 100, 640, 768, 1000, 2048, 2560, 4096, 5120, 8192, 12_288, 65_536, 1 << 20] {
        for thousandths in 0..1000usize {
            for interval in [1, 8, 256] {
                let exact = (1000 - thousandths) * hidden_size / 1000;
                let expected = exact - exact % interval;
                let sparsity = thousandths as f64 / 1000.0;
                match sliced_width(hidden_size, sparsity, interval) {
                    Ok(width) => assert_eq!(width, expected, "{hidden_size} at {sparsity}, interval {interval}"),
                    Err(error) => assert!(
                        expected == 0 && error.exit_code() == 2,
                        "{hidden_size} at {sparsity}, interval {interval}: {error}"
                    ),
                }
            }
        }
    }
    assert_eq!(sliced_width(10, 0.3, 1).expect("a width"), 7, "0.7 · 10 is 6.999… in floating point");
    assert_eq!(sliced_width(768, 0.2, 8).expect("a width"), 608);
    assert_eq!(sliced_width(4096, 0.0, 8).expect("a width"), 4096);
}

#[test]
fn sparsities_and_intervals_that_leave_nothing_are_usage_errors() {
    for (sparsity, interval) in [
        (1.0, 8),
        (1.5, 8),
        (-0.1, 8),
        (-1e-300, 8),
        (f64::NAN, 8),
        (f64::INFINITY, 8),
        (f64::NEG_INFINITY, 8),
        (0.25, 0),
        (0.25, 25),
        (0.25, usize::MAX),
        (0.75, 8),
        (0.999_999, 1),
    ] {
        let error = sliced_width(24, sparsity, interval).expect_err("nothing left");
        assert_eq!(error.exit_code(), 2, "{sparsity} {interval}");
        assert!(error.to_string().contains("--sparsity") && error.to_string().contains("--round-interval"), "{error}");
    }
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
