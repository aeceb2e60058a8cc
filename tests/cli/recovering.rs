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
    assert_eq!(program(args!["verify", scene.path("out")]).code, Some(0));
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
        (&["--learning-rate", "0"], "--learning-rate 0"),
        (&["--lora-dropout", "1"], "--lora-dropout 1"),
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
