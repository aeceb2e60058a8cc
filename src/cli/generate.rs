//! `slicegpt-gpu generate`

use std::path::PathBuf;

use super::{
    arguments::{DeviceArgs, ForceArgs},
    print::print,
    progress::Bars,
};
use crate::{
    data::{BuiltTokenizer, Chat, ChatTemplate, encode, fenced, held_back},
    error::{Error, Result},
    generate::{Sampling, generate},
    model::{GenerationConfig, Model},
    progress::Progress,
    run::{check_tokens, find_model, open_model, open_tokenizer, stop_tokens, writes_beside},
};

/// Tokens that are generated where neither an option nor generation_config.json says how many.
const MAX_NEW_TOKENS: usize = 128;
const TEMPERATURE: f64 = 0.8;
const TOP_P: f64 = 0.95;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model: a directory, a .safetensors file with its config.json beside it, a
    /// .gguf file, or a name on the Hugging Face Hub such as org/name
    model: PathBuf,
    /// The text to continue; empty to start from nothing
    #[arg(long)]
    prompt: String,
    /// Take the prompt as a user's message: the model's chat template makes a conversation of it, and the answer is
    /// printed alone
    #[arg(long)]
    chat: bool,
    /// A system message before that of the user
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,
    /// Generate at most N tokens [default: generation_config.json's, or 128]
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<usize>,
    /// 0 always takes the likeliest token [default: generation_config.json's, or 0.8]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f64>,
    /// Draw only from the likeliest tokens whose probabilities add up to P [default: generation_config.json's, or 0.95]
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f64>,
    /// Seed of the draws
    #[arg(long, default_value_t = 42, value_name = "N")]
    seed: u64,
    #[command(flatten)]
    force: ForceArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

impl Args {
    pub fn execute(&self) -> Result<()> {
        let temperature = self.temperature.unwrap_or(TEMPERATURE);
        let top_p = self.top_p.unwrap_or(TOP_P);
        if !(temperature >= 0.0 && temperature.is_finite() && top_p > 0.0 && top_p <= 1.0) {
            return Err(Error::Usage("expected --temperature of at least 0 and --top-p in 0 < p <= 1".into()));
        }
        let (progress, device) = (Bars::log(), self.device.request());
        let model = open_model(&find_model(&self.model, &progress)?, &progress)?;
        device.plan_trace(&mut writes_beside(&model, self.force.force), &progress)?;
        let built = open_tokenizer(&model, &progress)?;
        let tokenizer = &built.tokenizer;
        let generation = model.generation_config()?;
        let stops = stop_tokens(&model, &generation, &built);
        stops.notes.iter().for_each(|note| progress.note(note));
        let sampling = self.sampling(&generation);
        if !generation.not_applied.is_empty() {
            let fields = generation.not_applied.join(", ");
            progress.note(&format!("generation_config.json asks for {fields}, which is not applied"));
        }
        let chat = self.chat.then(|| self.rendered(&model, &built)).transpose()?;
        // A conversation has its special tokens written out.
        let mut ids = encode(tokenizer, chat.as_ref().unwrap_or(&self.prompt), chat.is_none())
            .map_err(|reason| Error::BadTokens(format!("--prompt cannot be tokenised: {reason}")))?;
        if ids.is_empty() {
            ids.extend(stops.start);
        }
        check_tokens(&model, std::slice::from_ref(&ids), "--prompt")?;
        let gpu = device.open(&progress)?;
        if chat.is_none() {
            print(&self.prompt)?;
        }
        let mut stream = tokenizer.decode_stream(true);
        // The stream learns the prompt first, so that what follows is spaced as in the middle of a text.
        for &id in &ids {
            let _ = fenced(|| stream.step(id));
        }
        let wanted =
            generation.max_new_tokens.map_or(MAX_NEW_TOKENS, |count| usize::try_from(count).unwrap_or(usize::MAX));
        let max_new_tokens = self.max_new_tokens.unwrap_or(wanted);
        let (mut all, mut written) = (ids.clone(), ids.len());
        generate(&gpu, &model, &ids, &stops.eos, max_new_tokens, &sampling, |id| {
            all.push(id);
            if let Some(text) = fenced(|| stream.step(id))
                .map_err(|reason| Error::BadTokens(format!("token {id} cannot be decoded: {reason}")))?
            {
                print(&text)?;
                written = all.len();
            }
            progress.advance(0)?;
            Ok(true)
        })?;
        print(&format!("{}\n", held_back(tokenizer, &all, written)))?;
        device.close(&gpu, &progress)
    }

    /// The prompt as a conversation that waits for its answer.
    fn rendered(&self, model: &Model, built: &BuiltTokenizer) -> Result<String> {
        let chat = Chat::of_prompt(&self.prompt, self.system.as_deref());
        let template =
            ChatTemplate::find_for(model.shown(), model.directory(), built).map_err(|error| match error {
                Error::BadFile { path, reason } => Error::BadFile {
                    path,
                    reason: format!("{reason}; without --chat, the prompt is continued as it stands"),
                },
                other => other,
            })?;
        template.render(&chat, true).map_err(Error::BadTokens)
    }

    /// How tokens are drawn: by the options, or else as generation_config.json has it.
    fn sampling(&self, generation: &GenerationConfig) -> Sampling {
        let greedy = (generation.do_sample == Some(false)).then_some(0.0);
        Sampling {
            temperature: self.temperature.or(greedy).or(generation.temperature).unwrap_or(TEMPERATURE),
            top_p: self.top_p.or(generation.top_p).unwrap_or(TOP_P),
            seed: self.seed,
        }
    }
}
