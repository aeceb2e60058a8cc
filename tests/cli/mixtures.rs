//! Mixtures of experts on the command line: which experts leave, and what else is refused before any work.

use safetensors::SafeTensors;
use serde_json::{Value, json};

use std::{ffi::OsStr, fs, path::Path};

use crate::{Scene, args, program, read_json};

const MIXTURE: &str = "qwen3_moe_normalised";

/// Arguments with more after them.
fn with<'a>(first: &[&'a OsStr], more: &[&'a str]) -> Vec<&'a OsStr> {
    first.iter().copied().chain(more.iter().map(|flag| OsStr::new(*flag))).collect()
}

/// Prunes a share of the experts with and without a fit, and compares perplexity on the examples themselves.
fn fitting_what_is_left_gives_more(scene: &Scene, tokens: &Path, share: &str) {
    let pruned = |refit: &str| {
        let (model, to) = (scene.path("model"), scene.path(refit));
        let flags = ["--experts", share, "--refit", refit, "--global", "--json"];
        let asked = args!["prune", model, "-o", to, "--examples", tokens, "--eval", tokens];
        let report = program(&with(asked, &flags)).json();
        report["perplexity"]["sliced"].as_f64().unwrap_or_else(|| panic!("{report}"))
    };
    let [plain, fitted] = ["none", "writes"].map(pruned);
    assert!(fitted < plain, "{fitted} fitted, {plain} as pruned");
    assert_eq!(program(args!["verify", scene.path("writes")]).code, Some(0));
}

#[test]
fn experts_are_pruned_reported_verified_and_exported() {
    let scene = Scene::new(MIXTURE);
    let (model, out, tokens) = (scene.path("model"), scene.path("out"), scene.tokens("examples.json", 6, 20));
    let asked = args!["prune", model, "-o", out, "--experts", "0.34", "--examples", tokens, "--json"];
    let report = program(asked).json();
    let experts = |removed: &Value| removed["experts"].as_array().map_or(0, Vec::len);
    let removed = report["removed"].as_array().expect("a list");
    assert_eq!(removed.iter().map(experts).collect::<Vec<_>>(), [2, 2]);
    assert_eq!((&report["before"]["experts"], &report["after"]["experts"]), (&json!(12), &json!(8)));
    assert!(report["by_layer"].is_null());
    let written = read_json(&scene.path("out/config.json"));
    assert_eq!((&written["model_type"], &written["num_experts"]), (&json!("qwen3_moe"), &json!(4)));
    assert_eq!(program(args!["verify", out]).code, Some(0));
    let file = scene.path("out.gguf");
    assert_eq!(program(args!["export", out, "--format", "gguf", "-o", file]).code, Some(0));
    assert_eq!(program(args!["verify", file]).code, Some(0));
    // What is cut already may be cut no more, but by layer it is no different.
    let again = scene.path("again");
    let asked = args!["prune", model, "-o", again, "--experts", "0.34", "--global", "--examples", tokens, "--json"];
    let report = program(asked).json();
    let by_layer = report["removed"].as_array().expect("a list").iter().map(experts).sum::<usize>();
    assert_eq!(by_layer, 4, "as many in all");
}

#[test]
fn a_mixture_is_compressed_by_whole_experts_and_what_is_pruned_of_them_is_fitted_where_asked() {
    let scene = Scene::new(MIXTURE);
    let (model, out, tokens) = (scene.path("model"), scene.path("out"), scene.tokens("calibration.json", 8, 32));
    let asked = |more: &[&str]| {
        let flags = ["--axes", "experts", "--keep", "82%", "--effort", "quick", "--json"];
        let asked = with(args!["compress", model, "-o", out, "--calibration", tokens], &[&flags[..], more].concat());
        program(&asked).json()
    };
    let planned = asked(&["--dry-run"]);
    assert!(planned["after"]["experts"] == json!(8) && !out.exists(), "{planned}");
    let report = asked(&[]);
    assert_eq!((&report["before"]["experts"], &report["after"]["experts"]), (&json!(12), &json!(8)));
    assert_eq!(
        (&report["cut"][0]["axis"], &report["percent_removed"]),
        (&json!("experts"), &planned["percent_removed"])
    );
    let experts = |removed: &Value| removed["experts"].as_array().map_or(0, Vec::len);
    assert_eq!(report["removed"].as_array().expect("a list").iter().map(experts).collect::<Vec<_>>(), [2, 2]);
    let written = read_json(&out.join("config.json"));
    assert_eq!((&written["model_type"], &written["num_experts"]), (&json!("qwen3_moe"), &json!(4)));
    assert_eq!(program(args!["verify", out]).code, Some(0));
    let card = std::fs::read_to_string(out.join("README.md")).expect("a card");
    assert!(card.contains("cut experts") && card.contains("experts of all layers"), "{card}");
    fitting_what_is_left_gives_more(&scene, &tokens, "0.34");
}

#[test]
fn experts_in_mxfp4_are_pruned_to_an_ordinary_checkpoint_and_what_else_is_refused_says_why() {
    let scene = Scene::new("gpt_oss_mxfp4");
    let (model, out, tokens) = (scene.path("model"), scene.path("out"), scene.tokens("examples.json", 6, 20));
    let said = program(args!["verify", model]);
    assert!(said.code == Some(0) && said.out.contains("finite parameters"), "{said:?}");
    let report = program(args!["prune", model, "-o", out, "--experts", "0.25", "--examples", tokens, "--json"]).json();
    assert_eq!((&report["before"]["experts"], &report["after"]["experts"]), (&json!(8), &json!(6)));
    let written = read_json(&scene.path("out/config.json"));
    assert_eq!((&written["model_type"], &written["num_local_experts"]), (&json!("gpt_oss"), &json!(3)));
    assert_eq!(written["swiglu_limit"], json!(2.0));
    what_is_left_of_mxfp4_is_as_it_was(&scene, &report);
    assert_eq!(program(args!["verify", out]).code, Some(0));
    // Where all is to be of one type, or is fitted, or layers differ, it is BF16, with the same values.
    let [wide, fitted] = [("--dtype", "bf16"), ("--refit", "writes")].map(|(flag, value)| {
        let to = scene.path(&flag[2..]);
        let asked = args!["prune", model, "-o", to, "--experts", "0.25", "--examples", tokens, flag, value];
        assert_eq!(program(asked).code, Some(0));
        assert!(read_json(&to.join("config.json")).get("quantization_config").is_none(), "{flag}");
        to
    });
    assert_eq!(program(args!["verify", fitted]).code, Some(0));
    let logits = |of: &Path| {
        let file = scene.path("logits.safetensors");
        assert_eq!(program(args!["logits", of, "--tokens", tokens, "-o", file, "--force"]).code, Some(0));
        fs::read(&file).expect("logits")
    };
    assert!(logits(&out) == logits(&wide), "other values");
    let said = program(args![
        "prune",
        model,
        "-o",
        scene.path("global"),
        "--experts",
        "0.4",
        "--global",
        "--examples",
        tokens
    ]);
    assert!(said.code == Some(0) && said.err.contains("in MXFP4"), "{said:?}");
    assert_eq!(program(args!["verify", scene.path("global")]).code, Some(0));
    let written = read_json(&scene.path("global/config.json"));
    assert_eq!((&written["model_type"], written.get("quantization_config")), (&json!("pruned_gpt_oss"), None));
    let other = scene.path("other");
    for verb in ["run", "prune"] {
        scene.refused(args![verb, model, "-o", other], 2, "prune --experts SHARE");
    }
    // What the experts that stay write may be fitted.
    let cut = scene.path("cut");
    let asked = args!["compress", model, "-o", cut, "--calibration", tokens];
    let flags = ["--axes", "experts", "--target-parameters", "-15%", "--effort", "quick", "--json"];
    let report = program(&with(asked, &flags)).json();
    assert_eq!((&report["before"]["experts"], &report["after"]["experts"]), (&json!(8), &json!(6)));
    let written = read_json(&cut.join("config.json"));
    assert_eq!((&written["model_type"], &written["num_local_experts"]), (&json!("gpt_oss"), &json!(3)));
    assert!(written.get("quantization_config").is_none(), "{written}");
    assert_eq!(program(args!["verify", cut]).code, Some(0));
    fitting_what_is_left_gives_more(&scene, &tokens, "0.4");
    // Another limit of what its experts let through than llama.cpp has.
    scene.refused(args!["export", model, "--format", "gguf", "-o", scene.path("out.gguf")], 2, "values up to 7");
}

#[test]
fn what_is_left_of_a_mixture_is_trained_and_its_experts_stay() {
    let scene = Scene::new("qwen3_moe_dense_between");
    let (model, cut, tokens) = (scene.path("model"), scene.path("cut"), scene.tokens("examples.json", 12, 24));
    let asked = args!["prune", model, "-o", cut, "--experts", "0.34", "--examples", tokens];
    assert_eq!(program(asked).code, Some(0));
    let said = |out: &Path, flags: &[&str]| {
        let asked = args!["recover", cut, "-o", out, "--examples", tokens, "--json"];
        // What came of the last step, whether or not it is better.
        let said = program(&with(asked, &[&["--steps", "2", "--eval-every", "0"], flags].concat()));
        assert_eq!(program(args!["verify", out]).code, Some(0), "{said:?}");
        let report = said.json();
        let [before, after] = [&cut, out].map(|at| fs::read(at.join("model.safetensors")).expect("a file"));
        let [before, after] = [&before, &after].map(|bytes| SafeTensors::deserialize(bytes).expect("tensors"));
        let same = |name: &String| before.tensor(name).expect("it").data() == after.tensor(name).expect("it").data();
        let names: Vec<String> = before.names().into_iter().map(|name| name.to_string()).collect();
        let (stay, others): (Vec<&String>, Vec<&String>) =
            names.iter().partition(|name| name.contains(".experts.") || name.contains("mlp.gate.weight"));
        assert!(stay.len() == 2 * (4 * 3 + 1) && stay.into_iter().all(same), "{flags:?}: other experts");
        assert!(others.iter().any(|name| !same(name)), "{flags:?}: nothing is trained");
        report
    };
    let teacher = model.to_str().expect("text");
    for (number, (flags, mode, warns)) in [
        (&[][..], "lora", false),
        (&["--teacher", teacher], "blocks", false),
        (&["--teacher", teacher, "--mode", "distil"], "distil", false),
        (&["--targets", "q,gate"], "lora", true),
        (&["--train", "weights,norms"], "lora", true),
    ]
    .into_iter()
    .enumerate()
    {
        let report = said(&scene.path(&format!("out{number}")), flags);
        assert_eq!(report["arguments"]["mode"], json!(mode), "{flags:?}");
        assert_eq!(report["warnings"].to_string().contains("the experts of a mixture"), warns, "{flags:?}: {report}");
    }
    // In one go with the cut.
    let out = scene.path("compressed");
    let asked = args!["compress", model, "-o", out, "--calibration", tokens];
    let flags = ["--axes", "experts", "--keep", "90%", "--effort", "quick", "--recover", "2", "--json"];
    let report = program(&with(asked, &flags)).json();
    assert_eq!(report["recovery"]["mode"], json!("blocks"), "{report}");
    assert_eq!(program(args!["verify", out]).code, Some(0));
}

#[test]
fn heads_of_a_mixture_leave_by_gradients_in_the_ordinary_form_where_layers_are_alike() {
    let scene = Scene::new(MIXTURE);
    let (model, out, tokens) = (scene.path("model"), scene.path("out"), scene.tokens("examples.json", 6, 20));
    let asked = args!["prune", model, "-o", out, "--examples", tokens];
    let report = program(&with(asked, &["--attention", "--ratio", "0.5", "--layers", "all", "--json"])).json();
    assert_eq!(report["removed"].as_array().map(Vec::len), Some(2), "{report}");
    let written = read_json(&out.join("config.json"));
    let sizes = ["model_type", "num_attention_heads", "num_key_value_heads", "num_local_experts"];
    assert_eq!(sizes.map(|name| &written[name]), [&json!("qwen3_moe"), &json!(2), &json!(1), &json!(6)], "{report}");
    assert_eq!(program(args!["verify", out]).code, Some(0));
}

/// Holds the blocks and scales of experts that are left of the scene's model in `out` against those that there were.
fn what_is_left_of_mxfp4_is_as_it_was(scene: &Scene, report: &Value) {
    let [before, after] = ["model", "out"].map(|name| {
        let config = read_json(&scene.path(name).join("config.json"));
        (config, fs::read(scene.path(name).join("model.safetensors")).expect("a file"))
    });
    assert_eq!(before.0["quantization_config"], after.0["quantization_config"]);
    let [before, after] = [&before.1, &after.1].map(|bytes| SafeTensors::deserialize(bytes).expect("tensors"));
    let mut compared = 0;
    for layer in 0..2 {
        let gone: Vec<usize> = serde_json::from_value(report["removed"][layer]["experts"].clone()).expect("numbers");
        assert_eq!(gone.len(), 1, "{report}");
        for name in ["gate_up_proj_blocks", "gate_up_proj_scales", "down_proj_blocks", "down_proj_scales"] {
            let name = format!("model.layers.{layer}.mlp.experts.{name}");
            let [whole, left] = [&before, &after].map(|tensors| tensors.tensor(&name).expect("the tensor"));
            let experts = whole.data().chunks_exact(whole.data().len() / 4).enumerate();
            let kept: Vec<u8> =
                experts.filter(|(expert, _)| !gone.contains(expert)).flat_map(|of| of.1).copied().collect();
            assert_eq!((left.dtype(), left.shape()[0]), (safetensors::Dtype::U8, 3), "{name}");
            assert_eq!(left.shape()[1..], whole.shape()[1..], "{name}");
            assert!(left.data() == kept, "{name}: other bytes");
            compared += 1;
        }
    }
    assert_eq!(compared, 8);
    let size = |tensors: &SafeTensors| tensors.iter().map(|(_, tensor)| tensor.data().len()).sum::<usize>();
    assert_eq!(report["before"]["bytes"], json!(size(&before)));
    assert_eq!(report["after"]["bytes"], json!(size(&after)));
}

#[test]
fn what_mixtures_have_no_form_for_is_refused_with_the_way_out() {
    let scene = Scene::new(MIXTURE);
    let (model, out) = (scene.path("model"), scene.path("out"));
    for verb in ["run", "prune"] {
        scene.refused(args![verb, model, "-o", out], 2, "prune --experts SHARE");
    }
    for (flags, message) in [
        (&["--axes", "width"][..], "`compress` whole experts, heads and layers"),
        (&["--axes", "experts,mlp"], "have experts with fewer channels yet"),
        (&["--axes", "experts", "--keep", "30%"], "ask for less"),
        (&["--per-layer"], "prune --experts SHARE --global"),
        (&["--importance", "taylor"], "; leave it out"),
    ] {
        scene.refused(&with(args!["compress", model, "-o", out], flags), 2, message);
    }
    scene.refused(args!["prune", model, "-o", out, "--mlp"], 2, "`prune --attention` heads");
    scene.refused(args!["prune", model, "-o", out, "--channel"], 2, "`prune --attention` heads");
    scene.refused(args!["recover", model, "-o", out, "--targets", "gate,up"], 2, "name --targets q,k,v,o");
    scene.refused(args!["prune", model, "-o", out, "--experts", "1.5"], 2, "--experts 1.5");
    scene.refused(args!["prune", model, "-o", out, "--experts", "0.1"], 2, "not one expert");
    let said = program(args!["prune", model, "-o", out, "--experts", "0.5", "--mlp"]);
    assert!(said.code == Some(2) && said.err.contains("--mlp"), "{said:?}");
    let all = Scene::new("qwen3_moe_top_all");
    let (model, out) = (all.path("model"), all.path("out"));
    let asked = args!["compress", model, "-o", out, "--axes", "experts"];
    all.refused(asked, 2, "--axes experts: a token goes to all that a layer has");
    let dense = Scene::new("llama_gqa_tied");
    dense.refused(args!["prune", dense.path("model"), "-o", dense.path("out"), "--experts", "0.5"], 2, "has none");
    dense.refused(args!["compress", dense.path("model"), "-o", dense.path("out"), "--axes", "experts"], 2, "has none");
}
