//! What works: outputs, reports, reading back.

use super::*;

/// A small llama sliced by the paper's method on 19 equal paragraphs of text.
struct Sliced {
    scene: Scene,
    rows: Vec<String>,
    /// Of the model, before the run.
    before: Vec<(PathBuf, Vec<u8>)>,
    report: Value,
}

impl Sliced {
    fn new() -> Self {
        let scene = Scene::new(LLAMA);
        scene.tokenizer(json!({}));
        scene.put("model/generation_config.json", "{ \"dummy\":   true }\n");
        scene.put("model/README.md", "the original's");
        scene.put("model/training_args.bin", "not for the output");
        let rows = scene.paragraphs(19, 150);
        let text = scene.put("text.txt", rows.join("\n\n"));
        let before = scene.contents();
        let report = Self::run(&scene, &text, &[]);
        Self { scene, rows, before, report }
    }

    /// What a run on a text reports.
    fn run(scene: &Scene, text: &Path, flags: &[&str]) -> Value {
        let (model, out) = (scene.path("model"), scene.path("out"));
        let mut command = Command::new(PROGRAM);
        command.args(args!["run", model, "-o", out, "--calibration", text, "--json"]);
        said(command.args(["--cal-nsamples", "6", "--cal-max-seqlen", "64"]).args(flags)).json()
    }

    fn model(&self) -> PathBuf {
        self.scene.path("model")
    }

    fn out(&self) -> PathBuf {
        self.scene.path("out")
    }
}

#[test]
fn a_run_on_text_writes_a_whole_model_and_leaves_the_original_as_it_was() {
    let sliced = Sliced::new();
    let (model, out) = (sliced.model(), sliced.out());
    assert_eq!(
        names(&out),
        [
            "README.md",
            "config.json",
            "configuration_sliced_llama.py",
            "generation_config.json",
            "model.safetensors",
            "modeling_sliced_common.py",
            "modeling_sliced_llama.py",
            "slicegpt.json",
            "tokenizer.json"
        ]
    );
    for name in ["tokenizer.json", "generation_config.json"] {
        assert!(
            fs::read(out.join(name)).expect("a copy") == fs::read(model.join(name)).expect("the original"),
            "{name}"
        );
    }
    assert!(contents(&model).iter().all(|file| sliced.before.contains(file)), "the input is as it was");
    let beside = names(sliced.scene.directory.path());
    assert!(beside.iter().all(|name| !name.contains("tmp") && !name.contains("partial")), "{beside:?}");
    let card = fs::read_to_string(out.join("README.md")).expect("a model card");
    assert!(card.contains("\n# model, sliced"), "{card}");
    assert!(card.contains("AutoModelForCausalLM.from_pretrained(\".\", trust_remote_code=True)\n"), "{card}");
    sliced.scene.refused(
        args!["run", out, "-o", sliced.scene.path("again"), "--calibration", sliced.scene.path("text.txt")],
        2,
        "this model is sliced already; slice the original",
    );
}

#[test]
fn the_config_of_a_sliced_model_is_that_of_the_original_with_a_section_on_its_widths() {
    let sliced = Sliced::new();
    let (original, config) =
        (read_json(&sliced.model().join("config.json")), read_json(&sliced.out().join("config.json")));
    for (name, value) in original.as_object().expect("an object") {
        let expected = match name.as_str() {
            "model_type" => json!("sliced_llama"),
            "architectures" => json!(["SlicedLlamaForCausalLM"]),
            _ => value.clone(),
        };
        assert_eq!(config[name], expected, "{name}");
    }
    assert_eq!(config["slicing"]["method"], "slicegpt");
    assert_eq!(config["slicing"]["norm_width"], 24);
    assert_eq!(config["slicing"]["sparsity"], 0.25);
    let widths = |output| json!({ "attention_input": 16, "mlp_input": 16, "output": output, "attn_shortcut": true, "mlp_shortcut": true });
    assert_eq!(config["slicing"]["layers"], json!([widths(16), widths(24)]));
    assert_eq!(config["slicing"]["calibration_sha256"], sliced.report["calibration"]["sha256"]);
}

#[test]
fn the_report_says_what_was_read_and_written_and_what_it_took() {
    let sliced = Sliced::new();
    let (report, out) = (&sliced.report, sliced.out());
    assert_eq!(report["schema_version"], 1);
    assert_eq!((&report["hidden_size"], &report["sliced_width"]), (&json!(24), &json!(16)));
    assert_eq!((&report["calibration"]["sequences"], &report["calibration"]["tokens"]), (&json!(6), &json!(6 * 64)));
    assert_eq!((&report["perplexity"]["sequences"], &report["perplexity"]["tokens"]), (&json!(2), &json!(2 * 127)));
    for (path, field) in [(&out, "sliced_parameters"), (&sliced.model(), "original_parameters")] {
        let checkpoint = Checkpoint::open(path).expect("a checkpoint");
        let tensors = checkpoint.names().filter_map(|name| checkpoint.tensor(name));
        let parameters: usize = tensors.map(|tensor| tensor.shape.iter().product::<usize>()).sum();
        assert_eq!(report[field], json!(parameters), "{field}");
    }
    assert_eq!(report["layers"].as_array().map(Vec::len), Some(2));
    assert!(report["layers"][0]["kept_energy"][0].as_f64().is_some_and(|kept| (0.5..=1.0).contains(&kept)), "{report}");
    assert!(report["largest_eigen_residual"].as_f64().is_some_and(|residual| residual < 1e-10), "{report}");
    assert!(report["largest_orthogonality_error"].as_f64().is_some_and(|error| error < 1e-10), "{report}");
    for phase in ["perplexity before", "slice", "perplexity after"] {
        assert!(report["seconds"][phase].as_f64().is_some_and(|seconds| seconds > 0.0), "{phase}: {report}");
    }
    let planned = report["memory"].as_array().expect("phases").iter().filter_map(|phase| phase["gpu_bytes"].as_u64());
    let (planned, peak) = (planned.max().expect("a phase on the GPU"), report["peak_gpu_bytes"].as_u64());
    assert!(peak.is_some_and(|peak| peak <= planned), "no ceiling, and yet no more than planned: {report}");
    let listed: Vec<&str> = report["files"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    assert!(
        names(&out).iter().all(|name| listed.contains(&name.as_str())) && listed.len() == names(&out).len(),
        "{listed:?}"
    );
}

#[test]
fn perplexity_is_that_of_the_held_out_end_of_a_text_and_json_lines_of_its_rows_are_the_same_text() {
    let Sliced { scene, rows, report, .. } = Sliced::new();
    let (model, out) = (scene.path("model"), scene.path("out"));
    // The last tenth of 19 equal paragraphs: those from which on more than 17.1 have been seen.
    let tail = scene.put("tail.txt", rows[17..].join("\n\n"));
    for (path, field) in [(&model, "original"), (&out, "sliced")] {
        let evaluated = program(args!["eval", path, "--text", tail, "--json"]).json();
        let (found, reported) = (&evaluated["perplexity"], &report["perplexity"][field]);
        assert!(
            (found.as_f64().expect("a number") / reported.as_f64().expect("a number") - 1.0).abs() < 1e-9,
            "{field}: {found}, reported {reported}"
        );
    }
    let line = |(row, text): (usize, &String)| if row % 2 == 0 { json!(text) } else { json!({ "text": text }) };
    let lines: Vec<String> = rows.iter().enumerate().map(|row| line(row).to_string()).collect();
    let lines = scene.put("text.jsonl", lines.join("\n"));
    let again = Sliced::run(&scene, &lines, &["--force"]);
    assert_eq!(again["calibration"]["sha256"], report["calibration"]["sha256"]);
    assert_eq!(again["perplexity"]["sliced"], report["perplexity"]["sliced"]);
}

#[test]
fn force_replaces_the_output_whole() {
    let scene = Scene::new("phi_half_rotary");
    let (model, out, tokens) = (scene.path("model"), scene.path("out"), scene.tokens("tokens.json", 4, 12));
    fs::create_dir(&out).expect("a directory");
    scene.put("out/stale", "stale");
    scene.put("out/slicegpt.json", r#"{"tool_version": "0.1.0", "output": ["slicegpt.json", "stale"]}"#);
    let said = program(args!["run", model, "-o", out, "--calibration", tokens, "--cal-nsamples", "3", "--force"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    let code = [
        "configuration_sliced_phi.py",
        "model.safetensors",
        "modeling_sliced_common.py",
        "modeling_sliced_phi.py",
        "slicegpt.json",
    ];
    assert_eq!(names(&out), [&["README.md", "config.json"][..], &code].concat());
    assert_eq!(read_json(&out.join("slicegpt.json"))["output"], json!(names(&out)));
    assert_eq!(names(scene.directory.path()), ["model", "out", "tokens.json"]);
    for word in ["parameters", "perplexity", "kept energy", "largest eigen-residual", "written", "layer 0"] {
        assert!(said.out.contains(word), "{word}: {said:?}");
    }
}

#[test]
fn the_default_output_lies_beside_the_model_and_self_calibration_needs_no_text() {
    let scene = Scene::new(LLAMA);
    let flags = ["--cal-nsamples", "4", "--cal-max-seqlen", "16", "--json"];
    let report = said(Command::new(PROGRAM).arg("run").arg(scene.path("model")).args(flags)).json();
    assert_eq!(names(scene.directory.path()), ["model", "model-sliced-25"]);
    assert_eq!((&report["calibration"]["sequences"], &report["calibration"]["tokens"]), (&json!(4), &json!(64)));
    assert!(report["perplexity"]["sliced"].as_f64().is_some_and(|perplexity| perplexity > 1.0), "{report}");
    let said = said(
        Command::new(PROGRAM)
            .current_dir(scene.path("model"))
            .args(["run", "model.safetensors", "--sparsity", "0.3", "--round-interval", "1"])
            .args(flags),
    );
    assert_eq!(said.json()["sliced_width"], 16);
    assert!(scene.path("model/model-sliced-30/config.json").exists(), "{said:?}");
}

#[test]
fn the_same_seed_writes_the_same_bytes() {
    let scene = Scene::new("opt_relu");
    let run = |out: &str, seed: &str, orientation: &str| {
        let flags =
            ["--cal-nsamples", "3", "--cal-max-seqlen", "12", "--seed", seed, "--final-orientation", orientation];
        let said =
            said(Command::new(PROGRAM).arg("run").arg(scene.path("model")).arg("-o").arg(scene.path(out)).args(flags));
        assert_eq!(said.code, Some(0), "{said:?}");
        contents(&scene.path(out))
            .into_iter()
            .map(|(path, bytes)| (path.file_name().unwrap_or_default().to_owned(), bytes))
            .collect::<Vec<_>>()
    };
    let first = run("a", "7", "random");
    assert!(first == run("b", "7", "random"), "two runs with one seed differ");
    assert!(first != run("c", "8", "random"), "another seed changes nothing");
}

#[test]
fn every_kind_of_checkpoint_runs_and_reads_back() {
    for (name, flag, dtype) in [
        ("llama_sharded", None, Dtype::F32),
        ("llama_f16", None, Dtype::F16),
        ("llama_bf16", None, Dtype::BF16),
        ("llama_f16", Some("f32"), Dtype::F32),
        ("gpt2_hub_names", Some("f16"), Dtype::F16),
        ("opt_plain_layer_norm", Some("bf16"), Dtype::BF16),
        ("gpt_neox_parallel", None, Dtype::F32),
        ("qwen3_tied", None, Dtype::F32),
    ] {
        let scene = Scene::new(name);
        let (out, tokens, eval) =
            (scene.path("out"), scene.tokens("tokens.json", 3, 10), scene.tokens("eval.json", 2, 9));
        let mut command = Command::new(PROGRAM);
        command.args(args!["run", scene.path("model"), "-o", out, "--calibration", tokens, "--eval", eval, "--json"]);
        if let Some(flag) = flag {
            command.args(["--dtype", flag]);
        }
        let report = said(&mut command).json();
        let checkpoint = Checkpoint::open(&out).expect("the output");
        for tensor in checkpoint.names().filter_map(|name| checkpoint.tensor(name)) {
            assert_eq!(tensor.dtype, dtype, "{name}");
        }
        assert_eq!(report["sliced_bytes"], json!(checkpoint.byte_len()), "{name}");
        let stored = read_json(&out.join("config.json"))["dtype"].clone();
        let expected = match dtype {
            Dtype::F16 => "float16",
            Dtype::BF16 => "bfloat16",
            _ => "float32",
        };
        assert!(stored.is_null() || stored == expected, "{name}: {stored}");
        // Under another extension, too: --tokens says what it is.
        let renamed = scene.path("eval.ids");
        fs::rename(&eval, &renamed).expect("a new name");
        let evaluated = program(args!["eval", out, "--tokens", renamed, "--json"]).json();
        let (found, reported) = (&evaluated["perplexity"], &report["perplexity"]["sliced"]);
        assert!(
            (found.as_f64().expect("a number") / reported.as_f64().expect("a number") - 1.0).abs() < 1e-9,
            "{name}: {found}, reported {reported}"
        );
        assert_eq!(evaluated["parameters"], report["sliced_parameters"], "{name}");
    }
}

#[test]
fn a_dry_run_writes_nothing_and_warns_of_growth() {
    let scene = Scene::new(LLAMA);
    let before = scene.contents();
    let dry =
        |flags: &[&str]| said(Command::new(PROGRAM).arg("run").arg(scene.path("model")).arg("--dry-run").args(flags));
    let said = dry(&["--sparsity", "0.1"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.err.contains("warning: the result is larger than the original: "), "{said:?}");
    assert!(
        said.out.contains("would write")
            && said.out.contains("model-sliced-10: model.safetensors, config.json, slicegpt.json, README.md"),
        "{said:?}"
    );
    let report = dry(&["--sparsity", "0.1", "--json"]).json();
    assert!(report["percent_removed"].as_f64().is_some_and(|percent| percent < 0.0), "{report}");
    assert!(
        report["warnings"][0].as_str().is_some_and(|warning| warning.contains("larger than the original")),
        "{report}"
    );
    assert_eq!(
        (&report["dry_run"], &report["perplexity"], &report["calibration"]),
        (&json!(true), &Value::Null, &Value::Null)
    );
    assert!(report["memory"][0]["gpu_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{report}");
    let said = dry(&["--sparsity", "0.6"]);
    assert!(!said.err.contains("larger") && said.code == Some(0), "{said:?}");
    assert!(scene.contents() == before);
}

#[test]
fn logits_are_written_under_the_right_names_and_shapes() {
    let path = fixture("parity/opt_relu");
    let scene = Scene::new("opt_relu");
    let output = scene.path("logits.safetensors");
    let said = program(args!["logits", path, "--tokens", path.join("tokens.json"), "-o", output]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), ""), "{said:?}");
    assert_eq!(names(scene.directory.path()), ["logits.safetensors", "model"]);
    let checkpoint = Checkpoint::open(&output).expect("logits");
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["logits.0", "logits.1", "logits.2"]);
    for (row, ids) in support::tokens(&path.join("tokens.json")).iter().enumerate() {
        let tensor = checkpoint.tensor(&format!("logits.{row}")).expect("a row");
        assert_eq!((tensor.shape, tensor.dtype), ([ids.len(), 77].as_slice(), Dtype::F32));
        let expected = support::tensor(&path.join("logits.safetensors"), &format!("logits.{row}"));
        assert!(
            support::relative_error(&support::tensor(&output, &format!("logits.{row}")), &expected) < 1e-5,
            "row {row}"
        );
    }
}

#[test]
fn generation_at_temperature_zero_is_the_greedy_rollout() {
    let scene = Scene::new("llama_mha_untied");
    scene.tokenizer(json!({}));
    let model = scene.path("model");
    let generate = |flags: &[&str]| {
        let said = said(
            Command::new(PROGRAM)
                .arg("generate")
                .arg(&model)
                .args(["--prompt", "w5 w17 w30", "--max-new-tokens", "9"])
                .args(flags),
        );
        assert_eq!(said.code, Some(0), "{said:?}");
        said.out
    };
    let text = generate(&["--temperature", "0"]);
    assert!(text.starts_with("w5 w17 w30 w") && text.ends_with('\n'), "{text:?}");
    assert_eq!(text, generate(&["--temperature", "0", "--seed", "1"]));
    assert_eq!(generate(&["--temperature", "1.5"]), generate(&["--temperature", "1.5", "--seed", "42"]));
    let ids: Vec<u32> =
        text.split_whitespace().map(|word| word[1..].parse().expect("a word of the tokenizer")).collect();
    let tokens = scene.put("tokens.json", json!({ "input_ids": [ids] }).to_string());
    let output = scene.path("logits.safetensors");
    assert_eq!(program(args!["logits", model, "--tokens", tokens, "-o", output]).code, Some(0));
    let logits = support::tensor(&output, "logits.0");
    let vocabulary = scene.vocabulary() as usize;
    let likeliest = |position: usize| {
        let row = &logits[position * vocabulary..][..vocabulary];
        (0..vocabulary).max_by(|&a, &b| row[a].total_cmp(&row[b])).expect("a token") as u32
    };
    for position in 2..ids.len() - 1 {
        assert_eq!(ids[position + 1], likeliest(position), "position {position} of {ids:?}");
    }
    let eos = read_json(&model.join("config.json"))["eos_token_id"].as_u64().expect("an id") as u32;
    assert!(ids.len() == 12 || likeliest(ids.len() - 1) == eos, "{ids:?} stops early");
}

#[test]
fn kept_energies_are_shares_even_where_nothing_is_cut() {
    let scene = Scene::new(LLAMA);
    // Fewer tokens than directions: most eigenvalues are zero, but for rounding.
    let tokens = scene.tokens("tokens.json", 2, 7);
    for (index, basis) in ["per-block", "shared"].into_iter().enumerate() {
        let out = scene.path(&format!("out{index}"));
        let report = program(args![
            "run",
            scene.path("model"),
            "-o",
            out,
            "--calibration",
            tokens,
            "--sparsity",
            "0",
            "--basis",
            basis,
            "--json"
        ]);
        let energies: Vec<f64> =
            report.json()["kept_energy_per_site"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        assert!(
            !energies.is_empty() && energies.iter().all(|&energy| energy <= 1.0 && energy > 1.0 - 1e-9),
            "{basis}: {energies:?}"
        );
    }
}

#[test]
fn a_trace_that_cannot_be_written_costs_no_work() {
    let scene = Scene::new(LLAMA);
    let tokens = scene.tokens("tokens.json", 4, 40);
    for (trace, code, message) in
        [(scene.path("nowhere/trace.json"), 7, "cannot write"), (scene.path("model"), 2, "is a directory")]
    {
        scene.refused(
            args!["run", scene.path("model"), "-o", scene.path("out"), "--calibration", tokens, "--trace", trace],
            code,
            message,
        );
    }
}

#[test]
fn a_trace_tells_what_ran_when() {
    let scene = Scene::new(LLAMA);
    let tokens = scene.tokens("tokens.json", 4, 40);
    let (out, trace) = (scene.path("out"), scene.path("trace.json"));
    program(args![
        "run",
        scene.path("model"),
        "-o",
        out,
        "--calibration",
        tokens,
        "--eval",
        tokens,
        "--trace",
        trace,
        "--json"
    ])
    .json();
    let trace = read_json(&trace);
    let names: Vec<&str> =
        trace["traceEvents"].as_array().into_iter().flatten().filter_map(|event| event["name"].as_str()).collect();
    for name in
        ["perplexity before", "slice", "perplexity after", "eigensolve", "read and fuse weights", "save the state"]
    {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    let gpu = program(args!["devices", "--json"]).json();
    let timed = gpu[0]["features"]
        .as_array()
        .is_some_and(|features| features.iter().any(|feature| feature == "timestamp-query"));
    let timed = timed && std::env::var("SLICEGPT_GPU_LIMITS").is_err();
    for kernel in ["gemm", "attention", "covariance", "loss"] {
        assert_eq!(names.contains(&kernel), timed, "{kernel}: {names:?}");
    }
}

#[test]
fn eval_keeps_below_a_ceiling_does_with_less_where_that_fails_and_says_what_it_takes_at_least() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo");
    let text = fs::read_to_string(demo.join("heldout.txt")).expect("a text");
    let scene = Scene { directory: tempfile::tempdir().expect("a temporary directory") };
    let text = scene.put("text.txt", &text[..text.floor_char_boundary(16_000)]);
    let eval = |flags: &[&str]| {
        let mut arguments = args!["eval", demo, "--text", text, "--json"].to_vec();
        arguments.extend(flags.iter().map(OsStr::new));
        program(&arguments)
    };
    let (free, bound) = (eval(&[]).json(), eval(&["--max-gpu-memory", "8MiB"]).json());
    assert_eq!(free["perplexity"], bound["perplexity"], "the pieces change no token's loss");
    let ceiling = 8 << 20;
    assert!(
        free["peak_gpu_bytes"].as_u64() > Some(ceiling) && bound["peak_gpu_bytes"].as_u64() <= Some(ceiling),
        "{free} {bound}"
    );
    let squeezed = eval(&["--max-gpu-memory", "40MiB", "--withhold-gpu-memory", "36000000"]).json();
    assert!(
        squeezed["perplexity"] == free["perplexity"]
            && squeezed["warnings"].to_string().contains("trying again with less at a time"),
        "{squeezed}"
    );
    let refused = eval(&["--max-gpu-memory", "1MiB"]);
    assert!(refused.code == Some(5) && refused.err.contains("--max-gpu-memory is too low by "), "{refused:?}");
}
