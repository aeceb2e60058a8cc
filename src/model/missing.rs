//! Why a tensor that a config calls for is not in the files, and what to do: only for messages.

use super::{config::Config, tensors::Names, weights::WeightStore};
use crate::checkpoint::shard_of;

/// What wrappers put into names, and whose they are.
const WRAPPERS: [(&str, &str); 6] = [
    ("_orig_mod.", "torch.compile"),
    ("_fsdp_wrapped_module.", "FSDP"),
    ("_checkpoint_wrapped_module.", "activation checkpointing"),
    ("_forward_module.", "Fabric"),
    ("base_model.model.", "PEFT"),
    ("module.", "DataParallel"),
];

impl WeightStore {
    /// What the files say about a tensor that is missing; begins with a separator, and is empty if they say nothing.
    pub(super) fn why_missing(&self, name: &str) -> String {
        let names = || self.checkpoint.names();
        let any = |words: &[&str]| names().find(|name| words.iter().any(|word| name.contains(word)));
        if let Some(lora) = any(&[".lora_A.", ".lora_B.", ".lora_embedding_A"]) {
            return format!(
                "; the file has {lora}: it holds a LoRA adapter; merge it into its base model first, with PEFT's merge_and_unload()"
            );
        }
        if let Some((wrapper, whose)) =
            WRAPPERS.iter().find(|(wrapper, _)| names().any(|stored| stored.replace(wrapper, "") == name))
        {
            return format!(
                "; the file has it with `{wrapper}` in its name, which {whose} puts there and transformers does not load either: save the model that is wrapped, or take \
                 `{wrapper}` out of the names"
            );
        }
        if let Some(prefix) =
            names().find_map(|stored| stored.strip_suffix(name)).filter(|prefix| prefix.ends_with('.'))
        {
            return format!("; the file has it with `{prefix}` before its name: take that out of the names");
        }
        if let Some(quantised) = any(&[".qweight", ".qzeros", ".weight_packed", ".absmax", ".g_idx", ".weight_scale"]) {
            return format!("; the file has {quantised}: it is quantised; give the checkpoint that it was made of");
        }
        if let Some((number, count)) = self.only_shard() {
            return format!(
                "; this file is shard {number} of {count}: give the directory that has all of them and model.safetensors.index.json"
            );
        }
        if let Some(foreign) = any(&["tok_embeddings.weight", ".attention.wq.", ".feed_forward.w1."]) {
            return format!(
                "; the file has {foreign}: it is of another program's format; convert it to that of transformers"
            );
        }
        if name == Names::of(&self.config).head() {
            return self.why_no_head();
        }
        self.layers_there().map_or(String::new(), |count| {
            format!(
                "; the files have {count} layers, where config.json says {}: one of them is not this model's, or not whole",
                self.config.layers.len()
            )
        })
    }

    /// Which shard of how many the checkpoint is, if it is one alone.
    fn only_shard(&self) -> Option<(usize, usize)> {
        let mut files = self.checkpoint.files();
        let file = files.next().filter(|_| files.next().is_none())?;
        shard_of(&file.file_name()?.to_string_lossy())
    }

    fn why_no_head(&self) -> String {
        if let Some(head) = self.classifier() {
            return format!(
                "; this is a classifier ({head}), which has no head that writes text: only models with one can be sliced"
            );
        }
        let class = self
            .config
            .raw
            .get("architectures")
            .and_then(|names| names.get(0)?.as_str())
            .map_or(String::new(), |class| format!(" ({class})"));
        format!(
            "; the files have no head{class}, and config.json does not tie it to the embedding: if it is the embedding, set \"tie_word_embeddings\": true there"
        )
    }

    /// The head of a classifier, if the model has one.
    pub(super) fn classifier(&self) -> Option<&'static str> {
        ["score.weight", "classifier.weight", "qa_outputs.weight"]
            .into_iter()
            .find(|name| self.checkpoint.tensor(name).is_some())
    }

    /// How many layers the files have, where config.json says something else.
    fn layers_there(&self) -> Option<usize> {
        let marker = format!("{}.", self.config.architecture.names.layers);
        let number = |name: &str| {
            let rest =
                name.strip_prefix(&marker).or_else(|| name.split_once(&format!(".{marker}")).map(|(_, rest)| rest))?;
            rest.split('.').next()?.parse::<usize>().ok()
        };
        let count = self.checkpoint.names().filter_map(number).max()? + 1;
        (count != self.config.layers.len()).then_some(count)
    }

    /// Which sizes config.json leaves out, so that those of the class counted; begins with a separator.
    pub(super) fn sizes_left_out(&self) -> String {
        let Config { architecture, raw, .. } = &self.config;
        let fields = &architecture.fields;
        let all = [
            [fields.hidden_size, "hidden_size"],
            [fields.num_attention_heads, "num_attention_heads"],
            [fields.num_key_value_heads.unwrap_or("vocab_size"), ""],
            [fields.intermediate_size, ""],
            [fields.max_position_embeddings, "max_position_embeddings"],
            ["vocab_size", ""],
        ];
        let out: Vec<&str> = all
            .iter()
            .filter(|names| !names[0].is_empty() && !names.iter().any(|name| raw.contains_key(*name)))
            .map(|names| names[0])
            .collect();
        if out.is_empty() {
            return String::new();
        }
        format!("; config.json leaves out {}, for which the defaults of transformers count", out.join(", "))
    }
}

/// What kind of model a config of an unknown `model_type` is of, where its classes say so; begins with a separator.
pub fn kind(raw: &serde_json::Map<String, serde_json::Value>) -> String {
    const KINDS: [(&str, &str); 12] = [
        ("ForSequenceClassification", "a classifier"),
        ("ForTokenClassification", "a classifier"),
        ("ForQuestionAnswering", "a classifier"),
        ("ForMaskedLM", "an encoder"),
        ("ForPreTraining", "an encoder"),
        ("ForConditionalGeneration", "an encoder-decoder or multimodal model"),
        ("ForSpeechSeq2Seq", "a speech model"),
        ("ForCTC", "a speech model"),
        ("ForImageClassification", "an image model"),
        ("ForObjectDetection", "an image model"),
        ("ForImageTextToText", "a multimodal model"),
        ("ForVision2Seq", "a multimodal model"),
    ];
    let class = raw.get("architectures").and_then(|names| names.get(0)?.as_str()).unwrap_or_default();
    let by_name = KINDS.iter().find(|(end, _)| class.ends_with(end)).map(|(_, kind)| *kind);
    let multimodal =
        ["vision_config", "audio_config"].iter().any(|name| raw.get(*name).is_some_and(serde_json::Value::is_object));
    let encoder_decoder = raw.get("is_encoder_decoder").and_then(serde_json::Value::as_bool) == Some(true);
    let kind = match () {
        () if multimodal => Some("a multimodal model"),
        () if encoder_decoder => Some("an encoder-decoder model"),
        () => by_name,
    };
    let shown = if class.is_empty() { "it" } else { class };
    kind.map_or(String::new(), |kind| format!("; {shown} is {kind}, and only decoders that write text can be sliced"))
}
