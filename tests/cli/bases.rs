//! The same for runs that find a basis for several layers first, or run the dense model beside the sliced one: stopped,
//! they go on to the same bytes.

use super::{
    resume::{Runs, quietly},
    *,
};

const METHODS: [&[&str]; 4] = [
    &["--basis", "shared"],
    &["--basis", "per-block", "--refit", "full"],
    &["--basis", "segments=2", "--refit", "none"],
    &["--basis", "segments=3", "--refit", "reads", "--covariance", "raw", "--final-orientation", "random"],
];

/// Commits of slicing: layers of the dense model, then embeddings and layers of the sliced one; none if nothing of it
/// is done.
fn commits(runs: &Runs, out: &str) -> usize {
    let Some(state) = runs.state(out) else { return 0 };
    let Some(layers) = state["slicing"]["layers"].as_u64() else { return 0 };
    let found = state["slicing"]["bases"].as_array().is_some_and(|bases| !bases.is_empty())
        && state["slicing"]["stage"] == json!("Slice");
    layers as usize + if found { 5 } else { 0 } + usize::from(state["slicing"]["stage"] == json!("Slice"))
}

#[test]
fn killed_while_it_finds_a_basis_or_fits_it_ends_in_the_same_bytes() {
    for (number, method) in METHODS.into_iter().enumerate() {
        let runs = Runs::of(method);
        let mut random = Random(number as u64 + 20261122);
        let last = if method.contains(&"per-block") { 6 } else { 11 };
        let (mut kills, mut places) = (0, Vec::new());
        for round in 0..3 {
            let out = format!("out{round}");
            let mut target = 1 + random.below(last as u32 - 2) as usize;
            while !runs.scene.path(&out).exists() {
                let mut child =
                    quietly(&mut runs.command(&out, if runs.state(&out).is_some() { &["--resume"] } else { &[] }));
                let began = Instant::now();
                while target <= last && commits(&runs, &out) < target && child.try_wait().expect("a state").is_none() {
                    assert!(began.elapsed() < Duration::from_secs(120), "{target} commits are not reached");
                    std::thread::sleep(Duration::from_millis(2));
                }
                if target > last {
                    assert!(child.wait().expect("an end").success(), "{method:?}, round {round}");
                    break;
                }
                std::thread::sleep(Duration::from_micros(u64::from(random.below(40_000))));
                child.kill().expect("kill -9");
                if !child.wait().expect("an end").success() {
                    kills += 1;
                    places.push(commits(&runs, &out));
                }
                target = commits(&runs, &out).max(target) + 1 + random.below(4) as usize;
            }
            runs.check(&out, &format!("{method:?}, round {round}, kills after {places:?}"));
        }
        println!("{method:?}: {kills} kills, after {places:?} commits");
        assert!(kills >= 3, "{method:?}: only {kills} kills");
    }
}

#[test]
fn in_sittings_of_layers_dense_and_sliced_it_ends_in_the_same_bytes() {
    for method in METHODS {
        let runs = Runs::of(method);
        let all = if method.contains(&"per-block") { 5 } else { 10 };
        for sitting in ["1", "3"] {
            let out = format!("out{sitting}");
            let step: u64 = sitting.parse().expect("a number");
            for number in 0.. {
                let flags: &[&str] = if number == 0 {
                    &["--stop-after", sitting, "--json"]
                } else {
                    &["--stop-after", sitting, "--json", "--resume"]
                };
                let report = runs.run(&out, flags).json();
                let done = ((number + 1) * step).min(all);
                assert_eq!(
                    (&report["layers_done"], &report["finished"]),
                    (&json!(done), &json!(done == all)),
                    "{method:?}: {report}"
                );
                if done == all {
                    break;
                }
            }
            runs.check(&out, &format!("{method:?}, {sitting} layers at a time"));
        }
    }
}

#[test]
fn bases_and_residuals_that_were_damaged_are_refused() {
    for (method, layers, kept) in [
        (METHODS[0], "7", ["basis.0", "residual", "sliced", "output/model.safetensors"].as_slice()),
        (METHODS[1], "2", &["residual", "sliced", "output/model.safetensors"]),
        (METHODS[2], "7", &["basis.0", "basis.1", "output/model.safetensors"]),
        (METHODS[3], "3", &["basis.0", "residual"]),
    ] {
        let runs = Runs::of(method);
        let said = runs.run("out", &["--stop-after", layers]);
        assert!(said.code == Some(0) && said.err.contains("--resume continues"), "{said:?}");
        let state = runs.state("out").expect("a state");
        for name in kept {
            let name = match *name {
                "residual" => format!("residual.{}", state["slicing"]["residuals"][0]["file"]),
                "sliced" => format!("sliced.{}", state["slicing"]["residuals"][1]["file"]),
                other => other.to_owned(),
            };
            let path = runs.partial("out", &name);
            let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
            let flipped = |at: usize| {
                let mut bytes = bytes.clone();
                bytes[at] ^= 0x10;
                bytes
            };
            let mut damages =
                vec![Vec::new(), bytes[..bytes.len() - 1].to_vec(), [bytes.as_slice(), b"wxyz"].concat(), flipped(40)];
            if !name.contains("output") {
                damages.push(flipped(bytes.len() - 2));
            }
            for (index, damage) in damages.iter().enumerate() {
                println!("{method:?}, {name}, damage {index}");
                fs::write(&path, damage).expect("damage");
                runs.refused("out", &["--resume"], 3, "--force starts over");
            }
            fs::remove_file(&path).expect("gone");
            runs.refused("out", &["--resume"], 3, "missing from the unfinished run; --force starts over");
            fs::write(&path, &bytes).expect("what was kept");
        }
        // Whole, but absurd.
        for (name, value) in [
            ("layers", json!(6)),
            ("layers", json!(u64::MAX)),
            ("width", json!(0)),
            ("width", json!(100)),
            (
                "residuals",
                json!([{ "file": 0, "checksum": 0 }, { "file": 0, "checksum": 0 }, { "file": 0, "checksum": 0 }]),
            ),
            ("residuals", json!([{ "file": 7, "checksum": 0 }])),
            ("bases", json!([1, 2, 3, 4])),
            ("stage", json!("Neither")),
            ("sites", json!([])),
        ] {
            // With a basis that is kept in its file, or none to be found yet, there may be no sites.
            if state["slicing"][name] == value {
                continue;
            }
            let mut other = state.clone();
            other["slicing"][name] = value.clone();
            runs.put_state("out", &other);
            println!("{method:?}, {name} {value}");
            runs.refused("out", &["--resume"], 3, "--force starts over");
        }
        runs.put_state("out", &state);
        for (flag, value) in [("--ridge", "0.5"), ("--basis", "segments=4"), ("--slice-head", ""), ("--seed", "7")] {
            // The others slice the head without being asked.
            let known = if flag == "--slice-head" { method != METHODS[1] } else { method.contains(&flag) };
            if !known {
                let flags = ["--resume", flag, value];
                let flags = if value.is_empty() { &flags[..2] } else { &flags };
                runs.refused("out", flags, 2, &format!("cannot resume: {flag} was"));
            }
        }
        assert_eq!(runs.run("out", &["--resume"]).code, Some(0));
        runs.check("out", &format!("{method:?}, after all damage was undone"));
    }
}
