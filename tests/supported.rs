//! Is the table of supported models in README.md what the program does? Its columns are answered by the code, for the
//! models of the fixtures.

mod support;

use std::{collections::BTreeMap, fs, path::Path};

use slicegpt_gpu::{
    checkpoint::Dtype,
    compress::{Axis, Effort, Goal, Options, axes},
    model::{Config, Model, architecture::ARCHITECTURES},
    stream::Types,
};

/// What people call the models of a `model_type`.
const FAMILIES: &[(&str, &str)] = &[
    ("llama", "Llama 1, 2, 3, TinyLlama, SmolLM, SmolLM2"),
    ("mistral", "Mistral 7B, text of Mistral Small 3"),
    ("ministral", "Ministral 8B"),
    ("qwen2", "Qwen 2, Qwen 2.5"),
    ("qwen3", "Qwen 3 (dense)"),
    ("qwen3_5_text", "Qwen 3.5 (dense; of vision models, the text part)"),
    ("smollm3", "SmolLM3"),
    ("granite", "Granite (dense)"),
    ("phi3", "Phi-3, Phi-4, Phi-4-mini"),
    ("phi", "Phi-1.5, Phi-2"),
    ("gemma", "Gemma 1"),
    ("gemma2", "Gemma 2"),
    ("gemma3_text", "Gemma 3 (of vision models, the text part)"),
    ("olmo", "OLMo"),
    ("olmo2", "OLMo 2"),
    ("stablelm", "StableLM"),
    ("cohere", "Command R"),
    ("starcoder2", "StarCoder2"),
    ("falcon", "Falcon 7B, 40B (RW: not as GGUF)"),
    ("bloom", "BLOOM"),
    ("mpt", "MPT"),
    ("gptj", "GPT-J"),
    ("gpt_neo", "GPT-Neo"),
    ("gpt_neox", "Pythia, GPT-NeoX"),
    ("opt", "OPT (not 350m)"),
    ("gpt2", "GPT-2"),
    ("qwen2_moe", "Qwen 1.5, 2 MoE"),
    ("qwen3_moe", "Qwen 3 MoE"),
    ("olmoe", "OLMoE"),
    ("mixtral", "Mixtral"),
    ("gpt_oss", "gpt-oss"),
];

/// What can be done with the models of one `model_type`, of which one or another may be able to do more.
#[derive(Default)]
struct Able {
    sliced: bool,
    narrower: bool,
    pruned: bool,
    heads: bool,
    channels: bool,
    layers: bool,
    experts: bool,
}

impl Able {
    fn add(&mut self, config: &Config) {
        self.sliced |= config.can_slice().is_ok();
        self.narrower |= config.can_slice().is_ok() && config.has_stock_form();
        self.experts |= config.is_mixture();
        self.pruned |= !config.is_mixture() && config.can_cut_heads().is_ok();
        let options = Options {
            goal: Goal::Parameters(0.1),
            axes: Axis::ALL.to_vec(),
            chosen: false,
            effort: Effort::Quick,
            dtype: Types::One(Dtype::F32),
            ridge: 0.01,
            seed: 42,
            per_layer: false,
        };
        // Of some, such as those of one layer, there is nothing to cut.
        let found = axes(config, &options).map(|(found, _)| found).unwrap_or_default();
        self.heads |= found.contains(&Axis::Heads) || found.contains(&Axis::KvHeads);
        self.channels |= found.contains(&Axis::Mlp);
        self.layers |= found.contains(&Axis::Layers);
    }

    /// The columns after those that say which models they are of.
    fn columns(&self, model_type: &str) -> String {
        let yes = |able: bool, other: String| if able { "yes".to_owned() } else { other };
        let other = |able: bool, kind: &str| if able { format!("`{kind}_…`") } else { "no".to_owned() };
        let row = ARCHITECTURES.iter().find(|row| row.model_type == model_type).expect("a row");
        let written = if row.forms.gguf.is_some() { "yes" } else { "no" };
        let read = match row.read_from_gguf_as() {
            Some(same) if same == model_type => "yes".to_owned(),
            Some(other) => format!("as {other}"),
            None => "no".to_owned(),
        };
        format!(
            "{} | {} | {} | {} | {} | {} | {} ({}) |",
            yes(self.narrower, other(self.sliced, "sliced")),
            yes(self.heads, other(self.pruned, "pruned")),
            yes(self.channels, other(!self.experts, "pruned")),
            yes(self.layers, "no".to_owned()),
            if self.experts { "yes" } else { "" },
            yes(row.forms.code.is_some(), "no".to_owned()),
            written,
            read,
        )
    }
}

fn fixtures() -> Vec<Config> {
    let parity = support::fixture("parity");
    let mut paths: Vec<_> = fs::read_dir(parity).expect("fixtures").map(|entry| entry.expect("entry").path()).collect();
    paths.sort();
    paths.iter().map(|path| Model::open(path).expect("a model").config().clone()).collect()
}

#[test]
fn the_table_of_supported_models_is_what_the_program_does() {
    let mut able: BTreeMap<&str, Able> = BTreeMap::new();
    for config in fixtures() {
        able.entry(config.architecture.model_type).or_default().add(&config);
    }
    for row in ARCHITECTURES {
        assert!(FAMILIES.iter().any(|(of, _)| *of == row.model_type), "{}: has no line", row.model_type);
    }
    // Of which the same can be done, stand in one line.
    let mut alike: Vec<(String, Vec<String>)> = Vec::new();
    for (model_type, family) in FAMILIES {
        let able = able.get(model_type).unwrap_or_else(|| panic!("{model_type}: has no fixture"));
        let (columns, name) = (able.columns(model_type), format!("{family} ({model_type})"));
        match alike.iter_mut().find(|(others, _)| *others == columns) {
            Some((_, names)) => names.push(name),
            None => alike.push((columns, vec![name])),
        }
    }
    let mut expected = vec![
        "| models (model_type) | width | heads | channels | layers, tokens | experts | Python | GGUF out (in) |"
            .to_owned(),
        "|---|---|---|---|---|---|---|---|".to_owned(),
    ];
    expected.extend(alike.iter().map(|(columns, names)| format!("| {} | {columns}", names.join(", "))));
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("README.md");
    let lines = readme.lines().skip_while(|line| *line != "## Supported models").skip(1);
    let found: Vec<&str> =
        lines.skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|')).collect();
    assert!(found == expected, "README.md has another table than this:\n\n{}\n", expected.join("\n"));
}
