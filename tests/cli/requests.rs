//! Does `--resume` compare every option that can change a result?

use clap::{CommandFactory, Parser};
use serde_json::{Map, Value};
use slicegpt_gpu::{cli::Cli, run::HARMLESS};

/// Options that no result depends on, beside those of [`HARMLESS`].
const CHANGE_NOTHING: &[&str] =
    &["block_wise", "dry_run", "json", "lose_device_after", "resume", "stop_after", "trace", "withhold_gpu_memory"];

/// For every other option, a value that is not its default; first for those of one subcommand.
const VALUES: &[(&str, &str)] = &[
    ("adapter", "low-rank"),
    ("aggregate", "max"),
    ("attention", ""),
    ("axes", "mlp"),
    ("basis", "segments=3"),
    ("batch_size", "3"),
    (
        "block_attention_layer_end",
        "2 --block_attention_layer_start=1 --block_mlp_layer_start=1 --block_mlp_layer_end=2",
    ),
    (
        "block_attention_layer_start",
        "1 --block_attention_layer_end=2 --block_mlp_layer_start=1 --block_mlp_layer_end=2",
    ),
    (
        "block_mlp_layer_end",
        "2 --block_attention_layer_start=1 --block_attention_layer_end=2 --block_mlp_layer_start=1",
    ),
    (
        "block_mlp_layer_start",
        "1 --block_attention_layer_start=1 --block_attention_layer_end=2 --block_mlp_layer_end=2",
    ),
    ("cal_batch_size", "3"),
    ("cal_max_seqlen", "77"),
    ("cal_nsamples", "9"),
    ("calibration", "text.txt"),
    ("covariance", "raw"),
    ("channel", ""),
    ("dtype", "bf16"),
    ("effort", "quick"),
    ("eval", "other.txt"),
    ("experts", "0.4"),
    ("eval_every", "3"),
    ("final_orientation", "random"),
    ("global", ""),
    ("compress importance", "taylor"),
    ("importance", "l1"),
    ("iterations", "2"),
    ("keep", "70%"),
    ("layers", "1..3"),
    ("mlp", ""),
    ("ppl_eval_seqlen", "33"),
    ("learning_rate", "0.25"),
    ("loss_on", "all"),
    ("lora_alpha", "3"),
    ("lora_dropout", "0.25"),
    ("lora_r", "3"),
    ("max_grad_norm", "0.25"),
    ("mode", "distil"),
    ("head", "untied"),
    ("per_layer", ""),
    ("precision", "f16-matrix"),
    ("pruner_type", "l2"),
    ("ratio", "0.5"),
    ("recover", "3"),
    ("recover_learning_rate", "0.25 --recover=3"),
    ("recover_mode", "lora --recover=3"),
    ("prune refit", "writes"),
    ("refit", "reads"),
    ("ridge", "0.5"),
    ("round_interval", "4"),
    ("save_every", "3"),
    ("schedule", "cosine"),
    ("seed", "7"),
    ("self_samples", "5"),
    ("slice_head", ""),
    ("sparsity", "0.125"),
    ("steps", "3"),
    ("target_parameters", "-10%"),
    ("target_size", "1MB"),
    ("targets", "q,down"),
    ("teacher", "dense"),
    ("temperature", "2"),
    ("train", "norms"),
    ("train_on_inputs", ""),
    ("warmup", "0.25"),
    ("weight_decay", "0.25"),
    ("vocabulary", "90"),
    ("write_importance", "file"),
];

/// Options that are another way to give the value of one, which is compared.
const OTHER_NAMES: &[(&str, &str)] = &[
    ("attention", "groups"),
    ("channel", "groups"),
    ("block_attention_layer_end", "layers"),
    ("block_attention_layer_start", "layers"),
    ("block_mlp_layer_end", "layers"),
    ("block_mlp_layer_start", "layers"),
    ("experts", "ratio"),
    ("keep", "target_parameters"),
    ("mlp", "groups"),
    ("pruner_type", "importance"),
    ("train_on_inputs", "loss_on"),
];

fn request(arguments: &[&str]) -> Option<Map<String, Value>> {
    let arguments = [&["slicegpt-gpu"], arguments].concat();
    Cli::try_parse_from(&arguments).unwrap_or_else(|error| panic!("{error}")).request().expect("fields")
}

#[test]
fn every_option_of_what_can_be_resumed_is_compared_or_known_to_be_harmless() {
    let resumed = Cli::command();
    let resumed = resumed
        .get_subcommands()
        .filter(|command| command.get_arguments().any(|argument| argument.get_id() == "resume"));
    let mut subcommands = 0;
    for command in resumed {
        subcommands += 1;
        let name = command.get_name();
        let plain = request(&[name, "model"]).unwrap_or_else(|| panic!("{name} can be resumed, and has no request"));
        for argument in command.get_arguments() {
            let id = argument.get_id().as_str();
            if CHANGE_NOTHING.contains(&id) || ["help", "version"].contains(&id) {
                assert!(!plain.contains_key(id), "{name} --{id} is compared, and is said to change nothing");
                continue;
            }
            let field = OTHER_NAMES.iter().find(|(other, _)| *other == id).map_or(id, |(_, field)| *field);
            assert!(plain.contains_key(field), "{name} --{id}: is it compared, or does no result depend on it?");
            if HARMLESS.contains(&id) {
                continue;
            }
            let own = format!("{name} {id}");
            let value = VALUES.iter().find(|(known, _)| *known == own || *known == id).map(|(_, value)| *value);
            let value = value.unwrap_or_else(|| panic!("{name} --{id}: what is a value that is not the default?"));
            let flag = format!("--{}", argument.get_long().unwrap_or(id));
            let given = if value.is_empty() { flag } else { format!("{flag}={value}") };
            // Some options go together.
            let arguments: Vec<&str> = [name, "model"].into_iter().chain(given.split(' ')).collect();
            let asked = request(&arguments).expect("a request");
            assert_ne!(asked[field], plain[field], "{name} {given} asks for nothing else");
            // One way to say how much to cut takes the place of the other one; the output's name says it, too.
            let sizes = ["keep", "sparsity", "target_parameters", "target_size"].contains(&id);
            let others = |fields: &Map<String, Value>| {
                let mut fields = fields.clone();
                let goal = |name: &str| sizes && ["sparsity", "target_parameters"].contains(&name);
                // Which share it is is said by what leaves.
                fields.retain(|name, _| !(id == "experts" && name == "groups"));
                // How something is trained is only said where it is.
                fields.retain(|name, _| !(id.starts_with("recover_") && name == "recover"));
                fields.retain(|name, _| name != id && name != field && name != "output" && !goal(name));
                fields
            };
            assert_eq!(others(&asked), others(&plain), "{name} {given} asks for something else, too");
        }
    }
    assert!(subcommands > 0, "nothing can be resumed, so the test proves nothing");
    let fields = request(&["run", "model"]).expect("a request");
    let spare: Vec<_> = HARMLESS.iter().filter(|name| !fields.contains_key(**name)).collect();
    assert!(spare.is_empty(), "{spare:?} are called harmless, and are no fields");
}
