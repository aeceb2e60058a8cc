//! `eval --against`: is what it says of two models right, and what cannot be compared refused?

use super::*;

const SAME: &str = "llama_gqa_tied";

/// log softmax of the logits of one token.
fn log_probabilities(logits: &[f32]) -> Vec<f64> {
    let most = logits.iter().fold(f64::NEG_INFINITY, |most, &logit| most.max(f64::from(logit)));
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - most).exp()).sum();
    logits.iter().map(|&logit| f64::from(logit) - most - sum.ln()).collect()
}

fn near(found: &Value, expected: f64, what: &str) {
    let found = found.as_f64().unwrap_or(f64::NAN);
    assert!((found - expected).abs() <= 1e-4 * expected.abs() + 1e-6, "{what}: {found}, expected {expected}");
}

#[test]
fn a_model_agrees_with_itself_wholly() {
    let scene = Scene::new(SAME);
    scene.tokenizer(json!({}));
    let (model, tokens) = (scene.path("model"), scene.tokens("tokens.json", 3, 20));
    let said = program(args!["eval", model, "--tokens", tokens, "--against", model]);
    assert!(said.code == Some(0) && said.out.contains("KL divergence 0.0000, same top token 100.00 %"), "{said:?}");
    let found = program(args!["eval", model, "--tokens", tokens, "--against", model, "--json"]).json();
    let against = &found["against"];
    assert_eq!((&against["top_1"], &against["perplexity"]), (&json!(1.0), &found["perplexity"]));
    assert!(against["kl"].as_f64().is_some_and(|kl| kl.abs() < 1e-6), "{found}");
    let bits = &against["bits_per_byte"];
    assert!(bits["against"] == bits["model"] && bits["model"].as_f64().is_some_and(|bits| bits > 0.0), "{found}");
    let alone = program(args!["eval", model, "--tokens", tokens, "--json"]).json();
    assert!(alone.get("against").is_none());
    near(&found["perplexity"], alone["perplexity"].as_f64().expect("a number"), "perplexity");
}

#[test]
fn the_divergence_from_another_model_is_that_of_the_logits_of_pytorch() {
    // The same tokens and vocabulary; the original's logits were computed by transformers.
    let scene = Scene::new(SAME);
    let from = fixture("parity").join(SAME);
    // With their numbers among the fixture's logits.
    let rows = support::tokens(&from.join("tokens.json"));
    let (numbers, rows): (Vec<usize>, Vec<_>) = rows.into_iter().enumerate().filter(|(_, row)| row.len() > 1).unzip();
    let (model, other) = (scene.path("model"), scene.path("other"));
    fs::create_dir(&other).expect("a directory");
    fs::copy(model.join("config.json"), other.join("config.json")).expect("a config");
    let mut tensors = support::tensors(&model.join("model.safetensors"));
    for (_, _, bytes) in tensors.iter_mut().filter(|(name, _)| name.contains("down_proj")).map(|(_, tensor)| tensor) {
        bytes.fill(0);
    }
    support::write_tensors(&other.join("model.safetensors"), &tensors, &[("format", "pt")]);
    let tokens = scene.put("tokens.json", json!({ "input_ids": rows }).to_string());
    let out = scene.path("logits.safetensors");
    assert_eq!(program(args!["logits", other, "--tokens", tokens, "-o", out]).code, Some(0));
    let (mut kl, mut same, mut count, mut losses) = (0.0, 0, 0, [0.0; 2]);
    let vocabulary = scene.vocabulary() as usize;
    for (number, row) in rows.iter().enumerate() {
        let places = [(&from.join("logits.safetensors"), numbers[number]), (&out, number)];
        let [dense, small] = places.map(|(path, number)| {
            let names: Vec<String> = Checkpoint::open(path).expect("logits").names().map(str::to_owned).collect();
            let name = names.iter().find(|name| name.ends_with(&number.to_string())).expect("the row");
            support::tensor(path, name)
        });
        let mut own = [0.0; 2];
        for (at, target) in row[1..].iter().enumerate() {
            let [p, q] = [&dense, &small].map(|all| log_probabilities(&all[at * vocabulary..(at + 1) * vocabulary]));
            kl += p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
            let likeliest = |of: &[f64]| (0..of.len()).max_by(|&a, &b| of[a].total_cmp(&of[b]));
            same += usize::from(likeliest(&p) == likeliest(&q));
            own[0] -= p[*target as usize];
            own[1] -= q[*target as usize];
            count += 1;
        }
        (0..2).for_each(|of| losses[of] += own[of] / (row.len() - 1) as f64 / rows.len() as f64);
    }
    let found = program(args!["eval", other, "--tokens", tokens, "--against", model, "--json"]).json();
    assert!(kl / f64::from(count) > 1e-3, "the models hardly differ, so the test proves nothing");
    near(&found["against"]["kl"], kl / f64::from(count), "KL");
    near(&found["against"]["top_1"], same as f64 / f64::from(count), "top 1");
    near(&found["against"]["perplexity"], losses[0].exp(), "the dense perplexity");
    near(&found["perplexity"], losses[1].exp(), "perplexity");
    assert_eq!(found["against"]["bits_per_byte"], Value::Null, "without a tokenizer");
}

#[test]
fn models_that_cannot_be_compared_are_refused() {
    let scene = Scene::new(SAME);
    let other = Scene::with_vocabulary(77);
    let (model, tokens) = (scene.path("model"), scene.tokens("tokens.json", 2, 20));
    let against = |other: &Path, tokens: &Path, code, message: &str| {
        scene.refused(args!["eval", model, "--tokens", tokens, "--against", other], code, message);
    };
    against(&other.path("model"), &tokens, 2, "entries cannot be compared with one of 77");
    against(&scene.path("missing"), &tokens, 3, "missing: no such model");
    // Too long for the other model alone.
    let [long, short] = ["opt_relu"; 2].map(Scene::new);
    let path = short.path("model/model.safetensors");
    let mut tensors = support::tensors(&path);
    let (_, positions) =
        tensors.iter_mut().find(|(name, _)| name.contains("embed_positions")).expect("learned positions");
    let width = positions.1[1];
    positions.1[0] = 8 + 2;
    positions.2.truncate(4 * (8 + 2) * width);
    support::write_tensors(&path, &tensors, &[("format", "pt")]);
    support::set_fields(&short.path("model"), &[("max_position_embeddings", json!(8))]);
    let tokens = long.tokens("tokens.json", 2, 12);
    long.refused(
        args!["eval", long.path("model"), "--tokens", tokens, "--against", short.path("model")],
        3,
        "row 0 has 12 tokens, the model has positions for 8",
    );
}
