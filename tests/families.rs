//! What rows of the table have no maths for, and what their classes in transformers do not take, is refused by name.

use std::path::Path;

use serde_json::{Value, json};
use slicegpt_gpu::{
    Error,
    model::{Config, Resize},
};

fn parse(fields: Value) -> Result<Config, Error> {
    Config::from_fields(fields.as_object().expect("an object").clone(), Path::new("DIR/config.json"))
}

/// `base` with some fields changed.
fn with(mut base: Value, changes: Value) -> Value {
    let changes = changes.as_object().expect("an object").clone();
    base.as_object_mut().expect("an object").extend(changes);
    base
}

/// The message of the refusal.
fn refusal(fields: Value) -> String {
    let error = parse(fields.clone()).err().unwrap_or_else(|| panic!("accepted: {fields}"));
    assert_eq!(error.exit_code(), 3, "{error}");
    error.to_string()
}

fn small(model_type: &str) -> Value {
    json!({
        "model_type": model_type, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 6,
        "num_key_value_heads": 2, "intermediate_size": 26, "vocab_size": 67, "max_position_embeddings": 128
    })
}

#[test]
fn the_width_by_its_former_name_counts_more_as_in_transformers_and_is_not_written_again() {
    for model_type in ["bloom", "falcon"] {
        let fields = json!({ "model_type": model_type, "num_attention_heads": 4, "num_hidden_layers": 2,
                             "vocab_size": 67, "n_embed": 24 });
        for (changes, width) in
            [(json!({}), 24), (json!({ "hidden_size": 64 }), 24), (json!({ "hidden_size": 48, "n_embed": null }), 48)]
        {
            let config = parse(with(fields.clone(), changes.clone())).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(config.hidden_size, width, "{model_type} {changes}");
            assert_eq!(config.raw["hidden_size"], json!(width), "{model_type} {changes}");
            assert!(!config.raw.contains_key("n_embed"), "{model_type} {changes}");
        }
    }
}

#[test]
fn what_a_row_has_no_maths_for_is_refused_by_name() {
    let mpt =
        json!({ "model_type": "mpt", "d_model": 24, "n_heads": 4, "n_layers": 2, "vocab_size": 67, "max_seq_len": 40 });
    let bloom = json!({ "model_type": "bloom", "hidden_size": 24, "n_head": 4, "n_layer": 2, "vocab_size": 67 });
    let falcon = json!({ "model_type": "falcon", "hidden_size": 24, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 67 });
    let neo = json!({ "model_type": "gpt_neo", "hidden_size": 24, "num_heads": 4, "num_layers": 2, "vocab_size": 67,
                      "max_position_embeddings": 40, "attention_types": [[["global", "local"], 1]] });
    for base in [&mpt, &bloom, &falcon, &neo] {
        parse(base.clone()).unwrap_or_else(|error| panic!("{base}: {error}"));
    }
    let attention = |fields: Value| json!({ "attn_config": fields });
    for (base, change, field) in [
        (&mpt, attention(json!({ "alibi": false })), "attn_config.alibi"),
        (&mpt, attention(json!({ "alibi_bias_max": 16 })), "attn_config.alibi_bias_max"),
        (&mpt, attention(json!({ "qk_ln": true })), "attn_config.qk_ln"),
        (&mpt, attention(json!({ "clip_qkv": -1.0 })), "attn_config.clip_qkv"),
        (&mpt, attention(json!({ "attn_type": "multiquery_attention" })), "attn_config.attn_type"),
        (&mpt, json!({ "no_bias": false }), "no_bias"),
        (&mpt, json!({ "expansion_ratio": 2 }), "expansion_ratio"),
        (
            &bloom,
            json!({ "apply_residual_connection_post_layernorm": true }),
            "apply_residual_connection_post_layernorm",
        ),
        (&bloom, json!({ "slow_but_exact": true, "pretraining_tp": 2 }), "slow_but_exact"),
        (&falcon, json!({ "num_ln_in_parallel_attn": 2 }), "num_ln_in_parallel_attn"),
        (&falcon, json!({ "new_decoder_architecture": true, "parallel_attn": false }), "parallel_attn"),
        (
            &falcon,
            json!({ "new_decoder_architecture": true, "num_ln_in_parallel_attn": 3 }),
            "new_decoder_architecture",
        ),
        (&small("gemma"), json!({ "use_bidirectional_attention": true }), "use_bidirectional_attention"),
        (&small("gemma3_text"), json!({ "attn_logit_softcapping": 50.0 }), "attn_logit_softcapping"),
        (&small("gemma2"), json!({ "final_logit_softcapping": -3.0 }), "final_logit_softcapping"),
        (&small("gemma2"), json!({ "query_pre_attn_scalar": 0 }), "query_pre_attn_scalar"),
        (&small("olmo"), json!({ "clip_qkv": 0 }), "clip_qkv"),
        (&small("cohere"), json!({ "logit_scale": 0.0 }), "logit_scale"),
    ] {
        let message = refusal(with(base.clone(), change));
        assert!(message.contains(&format!("unsupported {field} = ")), "{message}");
    }
    for types in
        [json!([[["global"], 3]]), json!([[["global", "other"], 1]]), json!("local"), json!([[["local"], 1e9]])]
    {
        let message = refusal(with(neo.clone(), json!({ "attention_types": types })));
        assert!(message.contains("attention_types: expected"), "{message}");
    }
    let message = refusal(with(neo, json!({ "attention_layers": ["local"] })));
    assert!(message.contains("attention_layers: expected"), "{message}");
    let flat = json!({ "rope_parameters": { "rope_type": "default", "rope_theta": 5e3 } });
    assert!(refusal(with(small("gemma3_text"), flat)).contains("rope_parameters: expected a section"));
    let longrope = |fields: Value| {
        let section =
            with(json!({ "rope_type": "longrope", "long_factor": [1, 2, 3], "short_factor": [1, 1, 1] }), fields);
        with(small("phi3"), json!({ "rope_scaling": section }))
    };
    parse(longrope(json!({}))).expect("a config");
    for (fields, name) in [
        (json!({ "long_factor": [1, 2] }), "long_factor"),
        (json!({ "short_factor": [1, 0, 1] }), "short_factor"),
        (json!({ "long_factor": null }), "long_factor"),
    ] {
        let message = refusal(longrope(fields));
        assert!(message.contains(&format!("rope_scaling.{name}: expected a positive number")), "{message}");
    }
    let wrapped = json!({ "model_type": "gemma3", "text_config": small("gemma3_text"), "quantization_config": { "quant_method": "awq" } });
    assert!(refusal(wrapped).contains("unsupported quantization_config = "));
    assert!(refusal(json!({ "model_type": "gemma3", "text_config": 3 })).contains("text_config"));
}

#[test]
fn the_head_of_a_gemma3_that_sees_has_no_cap_as_in_transformers() {
    let text = with(small("gemma3_text"), json!({ "final_logit_softcapping": 30.0 }));
    assert_eq!(parse(text.clone()).expect("a config").logit_softcap, Some(30.0));
    let whole = parse(json!({ "model_type": "gemma3", "text_config": text })).expect("a config");
    assert_eq!(whole.logit_softcap, None);
    assert!(!whole.raw.contains_key("final_logit_softcapping"), "what is written is a gemma3_text");
}

#[test]
fn heads_that_do_not_divide_the_width_stay_where_transformers_refuses_fewer() {
    for (model_type, refused) in [("llama", true), ("gemma2", true), ("gemma3_text", true), ("qwen3", false)] {
        let fields = json!({ "hidden_size": 42, "num_attention_heads": 6, "num_key_value_heads": 2 });
        let config = parse(with(small(model_type), fields)).expect("a config");
        let with_heads = |heads| config.resized(&Resize { heads, ..Resize::whole(&config) });
        assert!(with_heads(2).is_ok(), "{model_type}");
        let error = with_heads(4).err().map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(
            error.contains("be 42 wide with 4 heads: transformers refuses that"),
            refused,
            "{model_type}: {error}"
        );
    }
}

#[test]
fn gated_delta_nets_have_sizes_that_fit_and_leave_a_layer_with_attention() {
    let more = json!({ "full_attention_interval": 2, "linear_num_key_heads": 2, "linear_num_value_heads": 4 });
    let delta = with(small("qwen3_5_text"), more);
    for (fields, message) in [
        (json!({ "hidden_act": "gelu" }), "unsupported hidden_act = "),
        (json!({ "linear_key_head_dim": 257 }), "unsupported linear_key_head_dim = "),
        (json!({ "linear_num_value_heads": 3 }), "3 value heads cannot share 2 key heads of linear attention"),
        (json!({ "linear_conv_kernel_dim": 0 }), "linear_conv_kernel_dim: expected"),
        (json!({ "linear_num_key_heads": 1 << 20, "linear_num_value_heads": 1 << 20 }), "are absurd"),
        (json!({ "layer_types": ["full_attention"] }), "layer_types: expected a name for each layer"),
        (json!({ "layer_types": ["full_attention", "sliding_attention"] }), "unsupported layer_types = "),
        (json!({ "full_attention_interval": 0 }), "full_attention_interval: expected"),
    ] {
        let found = refusal(with(delta.clone(), fields));
        assert!(found.contains(message), "{message}: {found}");
    }
    // Of layers that have none, sizes do not matter.
    let alike = json!({ "layer_types": ["full_attention", "full_attention"], "linear_key_head_dim": 257 });
    let attends = parse(with(delta.clone(), alike)).expect("a config");
    assert!(!attends.has_delta_nets() && attends.can_lose(&[1]) && attends.layers[0].output_gate);
    let mixed = parse(delta).expect("a config");
    assert_eq!(mixed.layers.iter().map(|layer| layer.delta.is_some()).collect::<Vec<_>>(), [true, false]);
    assert!(mixed.can_lose(&[0]) && !mixed.can_lose(&[1]));
    let error = mixed.resized(&Resize { layers: vec![0], ..Resize::whole(&mixed) }).expect_err("no attention");
    assert!(error.to_string().contains("without any layer with attention"), "{error}");
}
