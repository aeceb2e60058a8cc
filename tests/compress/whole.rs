//! Where nothing is cut, nothing changes; and what is done twice is the same.

use super::*;

/// Fixtures whose files differ in more than the architecture.
const STORED: [(&str, &str); 6] = [
    ("llama_bf16", "bf16"),
    ("llama_f16", "f16"),
    ("llama_sharded", "shards"),
    ("mixtral_bf16", "bf16, mixtures whose experts are all chosen"),
    ("gpt2_hub_names", "names without a prefix"),
    ("gpt_neox_old_config", "an old config"),
];

#[test]
fn a_goal_that_needs_no_cut_copies_every_tensor_byte_for_byte() {
    let gpu = support::gpu();
    for (name, reason) in KINDS.iter().chain(&STORED) {
        let model = parity(name);
        let rows = rows(&model, &[20, 20, 20, 12]);
        let goal = as_large_as(&model, Resize::whole(model.config())).expect("whole sizes");
        let options = Options { effort: Effort::Quick, ..options(&model, goal, &Axis::ALL) };
        let found = compressed(&gpu, &model, &rows, &options).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(*found.sizes(), Resize::whole(model.config()), "{name} ({reason})");
        let (before, after) = (support::tensors(&fixture("parity").join(name)), found.tensors());
        let named = model.config().tensors();
        assert_eq!(after.len(), named.len(), "{name} ({reason})");
        for ((name_after, after), spec) in after.iter().zip({
            let mut sorted: Vec<_> = named.iter().collect();
            sorted.sort_by(|a, b| a.name.cmp(&b.name));
            sorted
        }) {
            assert_eq!(*name_after, spec.name, "{name} ({reason})");
            let stored =
                before.iter().find(|(stored, _)| **stored == spec.name || spec.name.ends_with(stored.as_str()));
            let (_, stored) = stored.unwrap_or_else(|| panic!("{name} ({reason}): {name_after} is new"));
            assert!(stored == after, "{name} ({reason}): {name_after} has changed");
        }
        let same = agreement(&gpu, &found.model, &model, &rows);
        assert!(same.kl == 0.0 && same.top_1 == 1.0, "{name} ({reason}): {same:?}");
        println!("{name} ({reason}): {} tensors as they were", after.len());
    }
}

#[test]
fn twice_the_same_gives_the_same_bytes() {
    let gpu = support::gpu();
    for (name, reason) in [("llama_gqa_tied", "a tied head"), ("phi3_gqa", "fused projections"), ("opt_relu", "biases")]
    {
        let model = parity(name);
        let rows = rows(&model, &[30, 30, 30, 30]);
        let options = options(&model, Goal::Parameters(0.15), &Axis::ALL);
        let [a, b] = [0, 1].map(|_| compressed(&gpu, &model, &rows, &options).expect("a smaller model"));
        assert!(a.snapshot == b.snapshot, "{name} ({reason})");
        assert!(a.tensors() == b.tensors(), "{name} ({reason})");
        assert!(a.model.config().parameters() as f64 <= 0.85 * model.config().parameters() as f64, "{name} ({reason})");
    }
}
