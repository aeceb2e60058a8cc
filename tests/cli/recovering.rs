//! Recovery as people ask for it: what it says and writes, what it refuses; stopped, it goes on to the same bytes.

use super::{resume::Runs, *};

#[test]
fn in_sittings_recovery_ends_in_the_same_bytes() {
    let runs = Runs::with("recover", &["--steps", "4", "--save-every", "1", "--batch-size", "4"]);
    assert_eq!(runs.run("out", &["--stop-after", "1"]).code, Some(0));
    runs.refused("out", &["--resume", "--learning-rate", "0.5"], 2, "--learning-rate");
    assert_eq!(runs.run("out", &["--resume", "--stop-after", "2"]).code, Some(0));
    assert_eq!(runs.run("out", &["--resume"]).code, Some(0));
    runs.check("out", "stopped after one step and after three");
}

/// What training the scene's model to `out` says.
fn recovered(scene: &Scene, flags: &[&str]) -> Said {
    let (model, out) = (scene.path("model"), scene.path("out"));
    let tokens = scene.tokens("tokens.json", 40, 24);
    let mut command = Command::new(PROGRAM);
    let asked = args!["recover", model, "-o", out, "--force", "--json", "--examples", tokens, "--steps", "3"];
    said(command.args(asked).args(flags))
}

#[test]
fn the_report_has_every_loss_and_the_card_a_curve_and_an_adapter_lies_where_it_was_asked_for() {
    let scene = Scene::new(LLAMA);
    let adapter = scene.path("adapter");
    let report = recovered(&scene, &["--adapter", adapter.to_str().expect("text"), "--eval-every", "2"]).json();
    assert_eq!(report["losses"].as_array().map(Vec::len), Some(3));
    let validated = report["validation"].as_array().expect("a list").iter().map(|each| each[0].as_u64());
    assert_eq!(validated.collect::<Vec<_>>(), [Some(0), Some(2), Some(3)]);
    let card = fs::read_to_string(scene.path("out/README.md")).expect("a card");
    assert!(card.contains("loss.svg") && scene.path("out/loss.svg").exists(), "{card}");
    let config = read_json(&adapter.join("adapter_config.json"));
    assert_eq!(config["r"], json!(8));
    assert!(adapter.join("adapter_model.safetensors").exists());
    assert_eq!(config["base_model_name_or_path"], json!(scene.path("model")));
    assert_eq!(program(args!["verify", scene.path("out")]).code, Some(0));
    // Of a file, not of the directory that is made of it for the time being.
    let (model, out, file) = (scene.path("model"), scene.path("out"), scene.path("m.gguf"));
    let tokens = scene.tokens("tokens.json", 40, 24);
    assert_eq!(program(args!["export", model, "--format", "gguf", "-o", file]).code, Some(0));
    let asked = args!["recover", file, "-o", out, "--force", "--examples", tokens, "--steps", "1"];
    let said = program(&[asked.as_slice(), args!["--adapter", adapter]].concat());
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(read_json(&adapter.join("adapter_config.json"))["base_model_name_or_path"], json!(file));
}

#[test]
fn layers_are_trained_towards_those_of_a_teacher_that_has_such_unless_something_else_is_asked_for() {
    let scene = Scene::new(LLAMA);
    let model = scene.path("model");
    let teacher = model.to_str().expect("text");
    let adapter = scene.path("adapter");
    for (flags, mode) in [
        (&[][..], "blocks"),
        (&["--targets", "q"], "blocks"),
        (&["--temperature", "2"], "distil"),
        (&["--loss-on", "answer"], "distil"),
        (&["--adapter", adapter.to_str().expect("text")], "distil"),
    ] {
        let report = recovered(&scene, &[flags, &["--teacher", teacher]].concat()).json();
        assert_eq!(report["arguments"]["mode"], json!(mode), "{flags:?}");
    }
    assert_eq!(recovered(&scene, &[]).json()["arguments"]["mode"], json!("lora"));
    // One with fewer layers and one that is narrower.
    let tokens = scene.tokens("tokens.json", 8, 24);
    for axis in ["layers", "width"] {
        let smaller = scene.path(axis);
        let asked = args!["compress", model, "-o", smaller, "--axes", axis, "--effort", "quick", "--self-samples", "0"];
        let made = said(Command::new(PROGRAM).args(asked).args(args!["--calibration", tokens]));
        assert_eq!(made.code, Some(0), "{made:?}");
        let other = smaller.to_str().expect("text");
        assert_eq!(recovered(&scene, &["--teacher", other]).json()["arguments"]["mode"], json!("distil"), "{axis}");
        let refused = recovered(&scene, &["--teacher", other, "--mode", "blocks"]);
        assert!(refused.code == Some(2) && refused.err.contains("compares layer with layer"), "{refused:?}");
    }
}

#[test]
fn what_cannot_be_trained_is_refused_with_the_reason() {
    let scene = Scene::new(LLAMA);
    let other = scene.path("model");
    let model = other.to_str().expect("text");
    for (flags, message) in [
        (&["--mode", "distil"][..], "needs --teacher"),
        (&["--mode", "blocks"], "needs --teacher"),
        (&["--mode", "lora", "--teacher", model], "--mode lora learns from text"),
        (&["--learning-rate", "0"], "--learning-rate 0: expected a number above 0 and below 10"),
        (&["--learning-rate", "-1"], "--learning-rate -1: expected a number above 0 and below 10"),
        (&["--learning-rate", "NaN"], "--learning-rate NaN: expected a number above 0"),
        (&["--lora-alpha", "0"], "--lora-alpha 0: expected a number above 0"),
        (&["--lora-dropout", "1"], "--lora-dropout 1: expected a number of at least 0 and below 1"),
        (&["--warmup", "1"], "--warmup 1: expected a number of at least 0 and below 1"),
        (&["--weight-decay", "-0.1"], "--weight-decay -0.1: expected"),
        (&["--max-grad-norm", "-1"], "--max-grad-norm -1: expected"),
        (&["--max-grad-norm", "inf"], "--max-grad-norm inf: expected"),
        (&["--temperature", "0"], "--temperature 0: expected"),
        (&["--nsamples", "41"], "--nsamples 41, but"),
        (&["--targets", "q,nose"], "some of q"),
        (&["--train", "head"], "weights, norms and biases"),
        (&["--train", "weights", "--targets", "q"], "--targets"),
        (&["--adapter", "x", "--train", "norms"], "--adapter holds A and B alone"),
        (&["--adapter", model], "would be overwritten"),
    ] {
        let said = recovered(&scene, flags);
        assert_eq!(said.code, Some(2), "{flags:?}: {said:?}");
        assert!(said.err.contains(message), "{flags:?}: {said:?}");
    }
}

#[test]
fn the_flags_of_the_references_script_mean_the_same() {
    let scene = Scene::new(LLAMA);
    let weights = |flags: &[&str]| {
        assert_eq!(recovered(&scene, flags).code, Some(0), "{flags:?}");
        fs::read(scene.path("out/model.safetensors")).expect("weights")
    };
    let own =
        ["--lora-r", "2", "--lora-alpha", "4", "--lora-dropout", "0.1", "--targets", "q,down", "--batch-size", "8"];
    let theirs = ["--lora_r", "2", "--lora_alpha", "4", "--lora_dropout", "0.1", "--batch_size", "8"];
    let rate = ["--lora_target_modules", "q_proj,down_proj", "--learning_rate", "0.01", "--cutoff_len", "16"];
    let own = weights(&[&own[..], &["--learning-rate", "0.01", "--seqlen", "16", "--cal-batch-size", "4"]].concat());
    assert!(own == weights(&[&theirs[..], &rate, &["--micro_batch_size", "4"]].concat()));
}

/// A scene whose model has the tokenizer of tests/fixtures/answers, and what that directory says of losses.
fn with_letters() -> (Scene, Value) {
    let scene = Scene::new(LLAMA);
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(fixture("answers").join(name), scene.path("model").join(name)).expect("a copy");
    }
    (scene, read_json(&fixture("answers").join("cases.json")))
}

/// Its records with an instruction, one a line.
fn instructions(cases: &Value) -> String {
    let rows = cases["records"].as_array().expect("records").iter().map(|case| &case[0]);
    rows.filter(|row| row.get("instruction").is_some()).map(|row| format!("{row}\n")).collect()
}

/// The loss of one step on all rows of a file.
fn first_loss(scene: &Scene, examples: &Path, flags: &[&str]) -> f64 {
    let (model, out) = (scene.path("model"), scene.path("out"));
    let eval = scene.tokens("eval.json", 1, 8);
    let mut command = Command::new(PROGRAM);
    command.args(args!["recover", model, "-o", out, "--force", "--json", "--eval", eval, "--examples", examples]);
    let report = said(command.args(["--steps", "1", "--batch-size", "100"]).args(flags)).json();
    report["losses"][0].as_f64().expect("a loss")
}

#[test]
fn the_loss_of_answers_and_of_a_teacher_at_answers_is_that_of_pytorch() {
    let (scene, cases) = with_letters();
    let records = scene.put("records.jsonl", instructions(&cases));
    let chats = cases["conversations"].as_array().expect("conversations").iter();
    let chats = chats.filter(|case| case[0] == "chatml").map(|case| format!("{}\n", json!({ "messages": case[1] })));
    let chats = scene.put("chats.jsonl", chats.collect::<String>());
    scene.put("model/chat_template.jinja", cases["templates"]["chatml"].as_str().expect("a template"));
    let teacher = scene.path("teacher");
    fs::create_dir(&teacher).expect("a directory");
    fs::copy(scene.path("model/config.json"), teacher.join("config.json")).expect("a copy");
    let mut tensors = support::tensors(&scene.path("model/model.safetensors"));
    for (_, shape, bytes) in tensors.values_mut().filter(|(_, shape, _)| shape.len() == 2) {
        assert_eq!(bytes.len(), 4 * shape.iter().product::<usize>());
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(bytes);
        *bytes = values.iter().flat_map(|value| (1.25 * value).to_le_bytes()).collect();
    }
    support::write_tensors(&teacher.join("model.safetensors"), &tensors, &[]);
    let teacher = teacher.to_str().expect("text");
    for (what, examples, flags) in [
        ("answers", &records, &[][..]),
        ("all", &records, &["--loss-on", "all"]),
        ("all", &records, &["--train_on_inputs"]),
        ("chats", &chats, &[]),
        ("divergence", &records, &["--teacher", teacher, "--temperature", "2"]),
    ] {
        let (found, expected) = (first_loss(&scene, examples, flags), cases["losses"][what].as_f64().expect("a loss"));
        assert!((found - expected).abs() < 1e-5 * expected, "{what}, {flags:?}: {found}, expected {expected}");
    }
}

#[test]
fn records_are_cut_held_out_and_counted_and_those_without_answers_refused() {
    let (scene, cases) = with_letters();
    let records = scene.put("records.jsonl", instructions(&cases).repeat(5));
    let recover = |examples: &Path, flags: &[&str]| {
        let mut command = Command::new(PROGRAM);
        let (model, out) = (scene.path("model"), scene.path("out"));
        command.args(args!["recover", model, "-o", out, "--force", "--examples", examples, "--steps", "2"]);
        said(command.args(["--batch-size", "2"]).args(flags))
    };
    // Of the 20 records, two are measured on; the first 20 tokens of some hold a part of the answer, or none.
    let whole = recover(&records, &["--json"]).json();
    assert_eq!((&whole["calibration"]["sequences"], &whole["perplexity"]["sequences"]), (&json!(18), &json!(2)));
    let (answers, all) = (&whole["calibration"]["answer_tokens"], &whole["calibration"]["tokens"]);
    assert!(answers.as_u64() < all.as_u64() && answers.as_u64() > Some(0), "{answers} of {all}");
    assert_eq!(whole["arguments"]["loss_on"], json!("answer"));
    let some = recover(&records, &["--nsamples", "8", "--json"]).json();
    assert_eq!((&some["calibration"]["sequences"], &some["perplexity"]["sequences"]), (&json!(8), &json!(12)));
    let cut = recover(&records, &["--seqlen", "20"]);
    assert!(cut.code == Some(0) && cut.err.contains("records are longer than 20 tokens"), "{cut:?}");
    assert!(cut.err.contains("records have nothing of an answer within that"), "{cut:?}");
    let short = recover(&records, &["--seqlen", "8"]);
    assert!(short.code == Some(3) && short.err.contains("no token of an answer is left"), "{short:?}");
    let model = scene.path("model");
    let model = model.to_str().expect("text");
    let blocks = recover(&records, &["--mode", "blocks", "--teacher", model, "--loss-on", "answer"]);
    assert!(blocks.code == Some(2) && blocks.err.contains("--mode blocks compares layers"), "{blocks:?}");
    // In sittings, as in one go.
    let files = |directory: &str| {
        let all = contents(&scene.path(directory));
        all.into_iter().map(|(path, bytes)| (path.file_name().map(ToOwned::to_owned), bytes)).collect::<Vec<_>>()
    };
    assert_eq!(recover(&records, &["--save-every", "1"]).code, Some(0));
    let once = files("out");
    assert_eq!(recover(&records, &["--save-every", "1", "--stop-after", "1"]).code, Some(0));
    assert_eq!(recover(&records, &["--save-every", "1", "--resume"]).code, Some(0));
    assert!(files("out") == once, "resumed to other bytes");
}
