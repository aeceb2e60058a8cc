//! Tables, Markdown, CSV: figures of valid rows alone, and what they were measured on.

use slicegpt_gpu::bench::{csv, markdown, text};

use crate::{recording, row, run};

/// One valid row of 2 GFLOP/s and one whose check failed at what would be 321 GFLOP/s.
fn sample() -> slicegpt_gpu::bench::Recording {
    let mut wrong = row("wrong", 1.0 / 321.0);
    wrong.check.as_mut().expect("a check").error = Some(0.25);
    let mut run = run("a GPU", vec![row("right", 0.5), wrong]);
    run.adapter.software = true;
    recording(vec![run])
}

#[test]
fn no_format_prints_a_figure_of_an_invalid_row() {
    for (format, text) in [("table", text(&sample())), ("Markdown", markdown(&sample())), ("CSV", csv(&sample()))] {
        let line = |name: &str| {
            text.lines().find(|line| line.trim_start_matches("| ").starts_with(name)).expect("the row").to_owned()
        };
        assert!(line("right").contains('2'), "{format}: {}", line("right"));
        assert!(line("wrong").contains("2.5e-1"), "{format} says why: {}", line("wrong"));
        assert!(!text.contains("321") && !line("wrong").contains("0.003"), "{format}: {text}");
    }
    let json = serde_json::to_value(sample()).expect("JSON");
    let wrong = &json["adapters"][0]["rows"][1];
    assert_eq!((&wrong["valid"], &wrong["figures"]), (&false.into(), &serde_json::Value::Null));
}

#[test]
fn software_adapters_are_labelled_in_every_format() {
    assert!(text(&sample()).contains("SOFTWARE, not a GPU"));
    assert!(markdown(&sample()).contains("### a GPU (software, not a GPU)"));
    assert!(csv(&sample()).lines().skip(1).all(|line| line.contains("SOFTWARE, not a GPU")));
    assert_eq!(serde_json::to_value(sample()).expect("JSON")["adapters"][0]["adapter"]["software"], true);
}

#[test]
fn every_format_tells_what_makes_figures_comparable() {
    let json = serde_json::to_string(&sample()).expect("JSON");
    for (format, text) in
        [("table", text(&sample())), ("Markdown", markdown(&sample())), ("CSV", csv(&sample())), ("JSON", json)]
    {
        for fact in [
            "a GPU",
            "Nobody",
            "vulkan",
            "beta",
            "max_buffer_size",
            "timestamp-query",
            "8x8/64",
            "an OS",
            "of sorts",
            "30.0.1",
        ] {
            assert!(text.contains(fact), "{format} lacks {fact}: {text}");
        }
    }
}

#[test]
fn markdown_escapes_what_would_end_a_cell() {
    let text = markdown(&recording(vec![run("a GPU", vec![row("a | b", 0.5)])]));
    let rows: Vec<_> = text.lines().filter(|line| line.starts_with('|')).collect();
    let columns = |line: &str| line.replace("\\|", "").matches('|').count();
    assert!(rows.len() == 3 && rows.iter().all(|line| columns(line) == columns(rows[0])), "{rows:?}");
}

#[test]
fn csv_has_as_many_fields_in_every_line_quotes_included() {
    let text = csv(&sample());
    // Fields of RFC 4180: a quote inside of quotes is doubled.
    let fields = |line: &str| {
        let (mut count, mut quoted) = (1, false);
        line.chars().for_each(|c| match c {
            '"' => quoted = !quoted,
            ',' if !quoted => count += 1,
            _ => {}
        });
        assert!(!quoted, "{line}");
        count
    };
    let counts: Vec<_> = text.lines().map(fields).collect();
    assert!(counts.len() == 3 && counts.iter().all(|&count| count == counts[0]), "{counts:?}: {text}");
    assert!(text.contains("\"1, \"\"beta\"\"\""), "{text}");
}
