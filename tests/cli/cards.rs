//! Model cards: what the Hub reads of them, and whatever the original's card is.

use super::*;

/// Makes a smaller model of the scene's; returns its card.
fn card(scene: &Scene, command: &str) -> String {
    let tokens = scene.tokens("tokens.json", 4, 30);
    let (model, out, eval) = (scene.path("model"), scene.path("out"), scene.tokens("eval.json", 2, 20));
    let quick = ["--effort", "quick", "--target-parameters", "-10%"];
    let run = args![command, model, "-o", out, "--calibration", tokens, "--eval", eval, "--force"];
    let mut run = run.to_vec();
    if command == "compress" {
        run.extend(quick.iter().map(OsStr::new));
    }
    let said = program(&run);
    assert_eq!(said.code, Some(0), "{said:?}");
    fs::read_to_string(scene.path("out/README.md")).expect("a card")
}

fn matter(card: &str) -> &str {
    let (matter, rest) = card.strip_prefix("---\n").and_then(|rest| rest.split_once("---\n")).expect("front matter");
    assert!(rest.starts_with("\n# "), "{card}");
    matter
}

#[test]
fn cards_begin_with_what_the_hub_reads_terms_and_measurements_included() {
    for (command, tag, measured) in [
        ("run", "sliced", &["perplexity"][..]),
        ("compress", "compressed", &["perplexity", "kl-divergence", "top-1-agreement"]),
    ] {
        let scene = Scene::new(LLAMA);
        scene.put(
            "model/README.md",
            "---\nlicense: other\nlicense_name: own-1\nlicense_link: https://example.org/l\nlanguage:\n- en\n- \
             no\ntags:\n- \
             a\n---\n# Text\n",
        );
        let card = card(&scene, command);
        let matter = matter(&card);
        for line in [
            "base_model: \"model\"",
            "license: \"other\"",
            "license_name: \"own-1\"",
            "license_link: \"https://example.org/l\"",
            "library_name: \"transformers\"",
            "pipeline_tag: \"text-generation\"",
            "language:\n- \"en\"\n- \"no\"\n",
            &format!("tags:\n- \"llama\"\n- \"slicegpt-gpu\"\n- \"{tag}\"\n"),
            &format!("model-index:\n- name: \"model-{tag}\"\n  results:\n  - task:\n      type: text-generation\n"),
            "      name: \"eval.json\"\n",
        ] {
            assert!(matter.contains(line), "{command}, {line:?}: {matter}");
        }
        let kinds: Vec<&str> = matter.lines().filter_map(|line| line.trim().strip_prefix("- type: ")).collect();
        assert_eq!(kinds, measured, "{matter}");
        let values = matter.lines().filter_map(|line| line.trim().strip_prefix("value: "));
        assert!(values.clone().count() == measured.len() && values.flat_map(str::parse::<f64>).all(f64::is_finite));
    }
}

#[test]
fn no_card_of_the_original_stops_a_run_or_gets_into_the_new_ones_yaml() {
    let scene = Scene::new(LLAMA);
    let huge = [&b"---\nlicense: "[..], &vec![b'['; 3 << 20]].concat();
    for bytes in [
        huge.as_slice(),
        b"---\nlicense: [\n---\n",
        b"\0\xff\xfe---\n",
        b"---\nlicense: mit\n  - &x *x\nlanguage: {{\n---",
        b"---\nlicense_link: \"x\ninjected: true\"\nlicense: other\n---\n",
        b"",
    ] {
        scene.put("model/README.md", bytes);
        let card = card(&scene, "run");
        let matter = matter(&card);
        assert!(!matter.contains("injected") && !matter.contains("[["), "{matter}");
        assert!(matter.contains("base_model: \"model\"\nli"), "{matter}");
    }
}

#[test]
fn cards_are_for_others_and_name_files_but_not_where_they_were() {
    let scene = Scene::new(LLAMA);
    let (tokens, eval) = (scene.tokens("tokens.json", 10, 30), scene.tokens("eval.json", 2, 20));
    for (command, file, options) in [
        ("run", "--calibration", &[][..]),
        ("compress", "--calibration", &["--effort", "quick", "--target-parameters", "-10%"]),
        ("prune", "--examples", &[]),
        ("recover", "--examples", &["--steps", "1", "--mode", "lora"]),
    ] {
        for measured in [&[][..], args!["--eval", eval]] {
            let (model, out) = (scene.path("model"), scene.path("out"));
            let run = args![command, model, "-o", out, file, tokens, "--cal-nsamples", "8", "--force"];
            let options: Vec<&OsStr> = options.iter().map(OsStr::new).collect();
            let said = program(&[run, &options[..], measured].concat());
            assert_eq!(said.code, Some(0), "{said:?}");
            let card = fs::read_to_string(scene.path("out/README.md")).expect("a card");
            assert!(!card.contains(&scene.directory.path().display().to_string()), "{command}: {card}");
            assert!(card.contains("of tokens.json"), "{command}: {card}");
            let text =
                if measured.is_empty() { "the held-out end of the calibration (tokens.json)" } else { "eval.json" };
            assert!(card.contains(&format!("was measured on {text} (")), "{command}: {card}");
            assert!(!card.contains("model-index") || card.contains(&format!("name: \"{text}\"")), "{command}: {card}");
        }
    }
}
