//! Do parameters and widths of sliced models come out as published?

use std::path::Path;

use serde_json::{Map, Value, json};
use slicegpt_gpu::{
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

fn parse(fields: Value) -> Config {
    Config::from_fields(object(fields), Path::new("DIR/config.json")).expect("a config")
}

/// `base` with some fields changed.
fn with(mut base: Value, changes: Value) -> Value {
    let fields = base.as_object_mut().expect("an object");
    for (name, value) in object(changes) {
        fields.insert(name, value);
    }
    base
}

fn options(sparsity: f64) -> Options {
    Options { cut: Cut::Sparsity(sparsity), round_interval: Some(8), dtype: Dtype::F16.into(), ..Options::default() }
}

fn plan(fields: &Value, sparsity: f64) -> Plan {
    Plan::new(&parse(fields.clone()), &options(sparsity)).expect("a plan")
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
    let error = Plan::new(&plan.config, &options(0.1)).expect_err("sliced already");
    assert!(error.exit_code() == 2 && error.to_string().contains("sliced already"), "{error}");
    let again = Config::from_fields(plan.config.raw.clone(), Path::new("config.json")).expect("its own config");
    assert_eq!(again.tensors(), plan.config.tensors());
}

#[test]
fn sliced_and_pruned_configs_name_classes_that_the_python_files_beside_them_define() {
    let with_files: Vec<_> = ARCHITECTURES.iter().filter(|row| row.forms.code.is_some()).collect();
    assert!(with_files.len() >= 34, "{}", with_files.len());
    for architecture in with_files {
        let Fields {
            hidden_size,
            num_hidden_layers,
            num_attention_heads,
            intermediate_size,
            max_position_embeddings,
            ..
        } = architecture.fields;
        let mut sizes = json!({
            "model_type": architecture.model_type, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, "num_key_value_heads": 4,
            intermediate_size: 48, "rotary_dim": 4, "vocab_size": 50, max_position_embeddings: 64, "auto_map": { "AutoTokenizer": "somebody_elses.Tokenizer" },
            "attention_types": [[["global", "local"], 1]], "multi_query": false, "full_attention_interval": 1,
        });
        // Some have no such field.
        sizes.as_object_mut().expect("an object").remove("");
        let dense = parse(sizes.clone());
        assert!(dense.python_files().is_empty(), "transformers knows {} itself", architecture.model_type);
        if dense.can_slice().is_ok() {
            names_classes_beside_it(&plan(&sizes, 0.25).config, "sliced");
        }
        let layer = json!({ "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 40 });
        let mut pruned = with(sizes, json!({ "model_type": format!("pruned_{}", architecture.model_type) }));
        pruned["pruning"] = json!({ "layers": [layer, layer] });
        for (name, value) in architecture.forms.code.iter().flat_map(|code| code.fields(true)) {
            pruned[name] = value;
        }
        names_classes_beside_it(&parse(pruned), "pruned");
    }
}

fn names_classes_beside_it(config: &Config, kind: &str) {
    let auto_map = config.raw["auto_map"].as_object().expect("an object");
    assert_eq!(auto_map.keys().collect::<Vec<_>>(), ["AutoConfig", "AutoModelForCausalLM"]);
    let files = config.python_files();
    for place in auto_map.values() {
        let (file, class) = place.as_str().and_then(|place| place.split_once('.')).expect("file.Class");
        let (_, text) = files.iter().find(|(name, _)| *name == format!("{file}.py")).expect("a file of that name");
        assert!(text.contains(&format!("\nclass {class}(")), "{file} defines no {class}");
        for imported in text.lines().filter_map(|line| line.strip_prefix("from .")?.split_once(" import ")) {
            let name = format!("{}.py", imported.0);
            assert!(files.iter().any(|(other, _)| *other == name), "{file} imports {}", imported.0);
        }
    }
    let (_, configuration) = files[0];
    assert!(configuration.contains(&format!("model_type = \"{kind}_{}\"", config.architecture.model_type)));
    assert_eq!(
        config.raw["architectures"][0].as_str(),
        auto_map["AutoModelForCausalLM"].as_str().and_then(|place| place.split('.').nth(1))
    );
}

#[test]
fn a_class_without_shared_keys_gets_no_python_files_for_layers_that_have_them() {
    let sizes = json!({
        "model_type": "pruned_opt", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "ffn_dim": 48,
        "vocab_size": 50, "max_position_embeddings": 64,
        "pruning": { "layers": [{ "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 40 }] },
    });
    assert!(parse(sizes).python_files().is_empty());
}

#[test]
fn a_falcon_gets_python_files_where_its_class_shares_keys_as_its_layers_do() {
    let falcon = |new: bool, multi_query: Option<bool>, heads: usize, kv_heads: usize| {
        let layer = json!({ "num_attention_heads": heads, "num_key_value_heads": kv_heads, "intermediate_size": 40 });
        let mut sizes = json!({
            "model_type": "pruned_falcon", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "num_kv_heads": 4,
            "vocab_size": 50, "new_decoder_architecture": new, "pruning": { "layers": [layer] },
        });
        if let Some(multi_query) = multi_query {
            sizes["multi_query"] = json!(multi_query);
        }
        !parse(sizes).python_files().is_empty()
    };
    assert!(falcon(false, None, 3, 1) && falcon(false, Some(true), 3, 1), "one key for all");
    assert!(falcon(false, Some(false), 3, 3) && !falcon(false, Some(false), 4, 2), "a key for each");
    assert!(falcon(true, None, 4, 2) && falcon(true, Some(true), 2, 2), "groups");
}

#[test]
fn a_mistral_gets_no_python_files_where_its_class_gives_layers_other_windows() {
    let layer = json!({ "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 40 });
    let files = |model_type: &str, types: [&str; 2]| {
        let types = types.map(|name| format!("{name}_attention"));
        let sizes = json!({
            "model_type": model_type, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
            "intermediate_size": 48, "vocab_size": 50, "sliding_window": 8, "layer_types": types, "pruning": { "layers": [layer, layer] },
        });
        parse(sizes).python_files().len()
    };
    assert_eq!(files("pruned_mistral", ["full", "sliding"]), 0);
    assert_eq!(files("pruned_mistral", ["sliding", "sliding"]), 3);
    assert_eq!(files("pruned_ministral", ["full", "sliding"]), 3);
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
