//! Leaving tokens out: what is left computes what it did, and every file knows the new numbers.

use safetensors::SafeTensors;
use tokenizers::Tokenizer;

use super::*;

/// The demo's model, with few tokens to calibrate on.
struct Demo {
    scene: Scene,
    tokens: PathBuf,
    text: PathBuf,
}

const TEXT: &str = "Once upon a time, there was a little girl who liked to play with her red ball.";

impl Demo {
    fn new() -> Self {
        let scene = Scene::new(LLAMA);
        let demo = Path::new("assets/demo");
        let text = scene.put("words.txt", TEXT);
        let calibration = fs::read_to_string(demo.join("calibration.txt")).expect("a text");
        let ids = tokenizer(demo).encode(&calibration[..4000], false).expect("ids").get_ids().to_vec();
        let rows: Vec<_> = ids.chunks_exact(48).take(6).collect();
        let tokens = scene.put("demo.json", json!({ "input_ids": rows }).to_string());
        Self { scene, tokens, text }
    }

    fn compress(&self, model: &Path, flags: &[&str]) -> Said {
        let (out, tokens) = (self.scene.path("out"), &self.tokens);
        let mut command = Command::new(PROGRAM);
        command.args(args!["compress", model, "-o", out, "--force", "--json", "--calibration", tokens]);
        command.args(["--self-samples", "2", "--effort", "quick", "--eval"]).arg(tokens).args(flags);
        said(&mut command)
    }
}

fn tokenizer(directory: &Path) -> Tokenizer {
    Tokenizer::from_file(directory.join("tokenizer.json")).expect("a tokenizer")
}

/// The logits that a model gives rows of ids, `[tokens, vocabulary]`.
fn logits(scene: &Scene, model: &Path, rows: &[Vec<u32>]) -> (Vec<f32>, usize) {
    let tokens = scene.put("rows.json", json!({ "input_ids": rows }).to_string());
    let file = scene.path("logits.safetensors");
    assert_eq!(program(args!["logits", model, "--tokens", tokens, "-o", file, "--force"]).code, Some(0));
    let bytes = fs::read(&file).expect("a file");
    let file = SafeTensors::deserialize(&bytes).expect("tensors");
    let (mut values, mut width) = (Vec::new(), 0);
    // In one order for all.
    let mut names = file.names();
    names.sort_unstable();
    for name in names {
        let tensor = file.tensor(name).expect("a tensor");
        width = *tensor.shape().last().expect("a width");
        values.extend(tensor.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four"))));
    }
    (values, width)
}

#[test]
fn what_is_left_of_the_vocabulary_has_the_logits_that_it_had() {
    let demo = Demo::new();
    let (model, text) = (Path::new("assets/demo"), demo.text.to_str().expect("a name").to_owned());
    let flags = ["--axes", "vocabulary", "--vocabulary", &text, "--eval", &text, "--ppl-eval-seqlen", "16"];
    let report = demo.compress(model, &flags).json();
    let out = demo.scene.path("out");
    let [before, after] = [model, &out].map(tokenizer);
    let kept = after.get_vocab_size(true);
    assert!((256..600).contains(&kept), "{kept} tokens");
    assert_eq!((&report["before"]["vocabulary"], &report["after"]["vocabulary"]), (&json!(1024), &json!(kept)));
    assert!(report["percent_removed"].as_f64().expect("a number") > 0.0, "{report}");
    // Nothing else is cut, so that nothing else changes.
    assert_eq!(report["perplexity"]["kl"], json!(0.0), "{report}");
    // Bits per byte are compared with the original with all its tokens: where all that a text has are left, they share
    // the probability of those that are gone; elsewhere it is written otherwise, which this model has never seen.
    let bits = |report: &Value| [0, 1].map(|at| report["bits_per_byte"][at].as_f64().expect("bits"));
    let [whole, left] = bits(&report["perplexity_elsewhere"][0]);
    let eval =
        program(args!["eval", model, "--text", demo.text, "--seqlen", "16", "--against", model, "--json"]).json();
    assert!(eval["against"]["bits_per_byte"]["model"] == json!(whole) && left < whole, "{report}: {eval}");
    let [whole, left] = bits(&report["perplexity"]);
    assert!(left > 2.0 * whole, "{report}");
    let old = |id: u32| before.token_to_id(&after.id_to_token(id).expect("a token")).expect("an old id");
    let ids = after.encode(TEXT, false).expect("ids").get_ids().to_vec();
    let old_ids: Vec<u32> = ids.iter().map(|id| old(*id)).collect();
    assert_eq!(old_ids, before.encode(TEXT, false).expect("ids").get_ids(), "the text is encoded as before");
    let ((found, width), (whole, all)) =
        (logits(&demo.scene, &out, std::slice::from_ref(&ids)), logits(&demo.scene, model, &[old_ids]));
    assert_eq!((width, all), (kept, 1024));
    for token in 0..ids.len() {
        for id in 0..kept {
            let (found, whole) = (found[token * kept + id], whole[token * all + old(id as u32) as usize]);
            assert_eq!(found, whole, "token {token}, id {id}");
        }
    }
    // The files agree on the new numbers.
    let config = read_json(&out.join("config.json"));
    assert_eq!(config["vocab_size"], json!(kept));
    for (name, content) in [("bos_token_id", "<s>"), ("eos_token_id", "</s>")] {
        let id = json!(after.token_to_id(content).expect("a special token"));
        assert_eq!(config[name], id, "config.json");
        assert_eq!(read_json(&out.join("generation_config.json"))[name], id, "generation_config.json");
    }
    let generated = program(args!["generate", out, "--prompt", "Once upon a time", "--max-new-tokens", "4"]);
    assert!(generated.code == Some(0) && generated.out.starts_with("Once upon a time"), "{generated:?}");
    let eval = program(args!["eval", out, "--text", demo.text, "--seqlen", "16"]);
    assert!(eval.code == Some(0), "{eval:?}");
}

#[test]
fn a_goal_counts_the_parameters_of_tokens_that_leave() {
    let demo = Demo::new();
    let model = Path::new("assets/demo");
    let run =
        demo.compress(model, &["--axes", "mlp,vocabulary", "--vocabulary", "600", "--keep", "75%", "--export", "gguf"]);
    let report = run.json();
    let parameters = |of: &str| report[of]["parameters"].as_f64().expect("a number");
    assert_eq!(report["before"]["parameters"], json!(959_872));
    assert!(parameters("after") <= 0.75 * parameters("before"), "{report}");
    assert!(parameters("after") > 0.72 * parameters("before"), "no more than was asked for: {report}");
    assert_eq!(report["after"]["vocabulary"], json!(600));
    assert!(demo.scene.path("out-f16.gguf").exists(), "{report}");
    // What the tokens that leave make up can be enough.
    let run = demo.compress(model, &["--vocabulary", "600", "--keep", "96%", "--export", "gguf"]);
    let report = run.json();
    assert_eq!(report["after"]["intermediate_size"], report["before"]["intermediate_size"], "{report}");
    assert_eq!(report["perplexity"]["kl"], json!(0.0), "{report}");
}

#[test]
fn where_only_tokens_leave_the_name_of_the_output_says_so() {
    let demo = Demo::new();
    let asked = args!["compress", "assets/demo", "--vocabulary", "500", "--calibration", demo.tokens, "--dry-run"];
    for (axes, name) in
        [("vocabulary", "demo-compressed-vocabulary: "), ("vocabulary,mlp", "demo-compressed-minus-20: ")]
    {
        let said = program(&[asked.as_slice(), args!["--axes", axes]].concat());
        assert!(said.code == Some(0) && said.out.contains(name), "{said:?}");
    }
}

#[test]
fn vocabularies_that_cannot_be_had_are_refused() {
    let demo = Demo::new();
    let model = Path::new("assets/demo");
    let refused = |flags: &[&str], code: i32, message: &str| {
        let run = demo.compress(model, flags);
        assert!(run.code == Some(code) && run.err.contains(message), "{flags:?}: {run:?}");
        assert!(!demo.scene.path("out").exists(), "{flags:?}");
    };
    refused(
        &["--vocabulary", "10"],
        2,
        "special tokens and what any text can be written in are 259 tokens, which stay",
    );
    refused(&["--vocabulary", "0"], 2, "expected a number of tokens above 0, or a file of text");
    refused(&["--vocabulary", "no-such-file.txt"], 3, "no-such-file.txt");
    let alone = ["--axes", "vocabulary", "--vocabulary", "500", "--recover", "2"];
    refused(&alone, 2, "--recover: no layer is cut");
    refused(&["--axes", "vocabulary"], 2, "say which tokens stay, with --vocabulary N or --vocabulary TEXT");
    // Without a tokenizer nobody knows which token is which.
    let scene = Scene::new(LLAMA);
    let tokens = scene.tokens("tokens.json", 4, 20);
    let (bare, out) = (scene.path("model"), scene.path("out"));
    scene.refused(
        args!["compress", bare, "-o", out, "--calibration", tokens, "--vocabulary", "90"],
        3,
        "model: has no tokenizer, of which --vocabulary leaves tokens out; put its tokenizer.json there",
    );
    let file = scene.path("m.gguf");
    assert_eq!(program(args!["export", bare, "--format", "gguf", "-o", file]).code, Some(0));
    scene.refused(
        args!["compress", file, "-o", out, "--calibration", tokens, "--vocabulary", "90"],
        3,
        "m.gguf: has no tokenizer, of which --vocabulary leaves tokens out; convert it with its tokenizer",
    );
}

#[test]
fn tokens_leave_the_text_part_of_a_larger_model() {
    for name in ["qwen35_multimodal", "gemma3_multimodal"] {
        let scene = Scene::new(name);
        let (model, out) = (scene.path("model"), scene.path("out"));
        let mut config = read_json(&model.join("config.json"));
        config["text_config"].as_object_mut().expect("a section").remove("pad_token_id");
        scene.put("model/config.json", config.to_string());
        let special = ["<unk>", "<s>", "</s>"].map(|piece| json!([piece, 0.0]));
        let words = (0..40u32).map(|word| json!([format!("▁w{word}"), -1.0 - 0.1 * f64::from(word)]));
        let vocabulary: Vec<Value> = special.into_iter().chain(words).collect();
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": { "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true },
            "post_processor": null, "decoder": null,
            "model": { "type": "Unigram", "unk_id": 0, "vocab": vocabulary, "byte_fallback": false }
        });
        scene.put("model/tokenizer.json", tokenizer.to_string());
        let rows: Vec<Vec<u32>> = (0..8).map(|row| (0..20).map(|at| 3 + (row + at * 3) % 12).collect()).collect();
        let tokens = scene.put("tokens.json", json!({ "input_ids": rows }).to_string());
        let asked = args!["compress", model, "-o", out, "--calibration", tokens, "--eval", tokens];
        let said = program(&[asked.as_slice(), args!["--axes", "vocabulary", "--vocabulary", "20"]].concat());
        assert_eq!(said.code, Some(0), "{name}: {said:?}");
        let config = read_json(&out.join("config.json"));
        assert_eq!((&config["vocab_size"], config.get("text_config")), (&json!(20), None), "{name}");
        // Those that classes fill in may be outside of it.
        for role in ["bos_token_id", "eos_token_id", "pad_token_id"] {
            let id = &config[role];
            assert!(config.get(role).is_some() && id.as_u64().is_none_or(|id| id < 20), "{name}: {role}: {id}");
        }
        // The old number of each that stays.
        let left = read_json(&out.join("tokenizer.json"));
        let left = left["model"]["vocab"].as_array().expect("pieces").iter();
        let old: Vec<usize> = left.filter_map(|piece| vocabulary.iter().position(|other| other == piece)).collect();
        assert_eq!(old.len(), 20, "{name}: {old:?}");
        let new = |id: &u32| old.iter().position(|old| *old == *id as usize).expect("a token that is used") as u32;
        let renumbered: Vec<Vec<u32>> = rows.iter().map(|row| row.iter().map(new).collect()).collect();
        let (before, after) = (logits(&scene, &model, &rows), logits(&scene, &out, &renumbered));
        for (whole, left) in before.0.chunks(before.1).zip(after.0.chunks(after.1)) {
            let apart = old.iter().zip(left).map(|(old, left)| (whole[*old] - left).abs()).fold(0.0, f32::max);
            assert!(apart < 1e-5, "{name}: {apart}");
        }
    }
}

#[test]
fn work_with_fewer_tokens_is_resumed() {
    let demo = Demo::new();
    let model = Path::new("assets/demo");
    let flags = ["--vocabulary", "500", "--axes", "mlp"];
    let whole = demo.compress(model, &flags);
    assert_eq!(whole.code, Some(0), "{whole:?}");
    let expected = fs::read(demo.scene.path("out/model.safetensors")).expect("tensors");
    fs::remove_dir_all(demo.scene.path("out")).expect("the output");
    let stopped = demo.compress(model, &[&flags[..], &["--stop-after", "7"]].concat());
    assert!(stopped.code == Some(0) && !demo.scene.path("out").exists(), "{stopped:?}");
    let other = demo.compress(model, &["--vocabulary", "501", "--axes", "mlp", "--resume"]);
    assert!(other.code == Some(2) && other.err.contains("--vocabulary"), "{other:?}");
    let resumed = demo.compress(model, &[&flags[..], &["--resume"]].concat());
    assert_eq!(resumed.code, Some(0), "{resumed:?}");
    assert!(fs::read(demo.scene.path("out/model.safetensors")).expect("tensors") == expected, "other bytes");
}
