//! `slicegpt-gpu generate`

use std::path::PathBuf;

use super::{
    DeviceArgs,
    input::{check_tokens, open_model},
    print,
    progress::Bars,
};
use crate::{
    data::{Chat, ChatTemplate, encode, fenced, load_tokenizer},
    error::{Error, Result},
    generate::{Sampling, generate},
    model::Model,
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model: a .safetensors file with its config.json beside it, or a directory
    model: PathBuf,
    /// The text to continue; empty to start from nothing
    #[arg(long)]
    prompt: String,
    /// Take the prompt as a user's message: the model's chat template makes a conversation of it, and the answer is printed alone
    #[arg(long)]
    chat: bool,
    /// A system message before that of the user
    #[arg(long, value_name = "TEXT", requires = "chat")]
    system: Option<String>,
    /// Stop after so many tokens, if the model has not ended before
    #[arg(long, default_value_t = 128, value_name = "N")]
    max_new_tokens: usize,
    /// 0 takes the likeliest token always
    #[arg(long, default_value_t = 0.8, value_name = "T", allow_negative_numbers = true)]
    temperature: f64,
    /// Draw only from the likeliest tokens whose probabilities add up to this
    #[arg(long, default_value_t = 0.95, value_name = "P", allow_negative_numbers = true)]
    top_p: f64,
    /// Seed of the draws
    #[arg(long, default_value_t = 42, value_name = "N")]
    seed: u64,
    #[command(flatten)]
    device: DeviceArgs,
}

impl Args {
    pub fn execute(&self) -> Result<()> {
        if !(self.temperature >= 0.0 && self.temperature.is_finite() && self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::Usage("expected --temperature of at least 0 and --top-p in 0 < p <= 1".into()));
        }
        let progress = Bars::new();
        let model = open_model(&self.model, &progress)?;
        let tokenizer = load_tokenizer(model.directory())?;
        let chat = self.chat.then(|| self.rendered(&model)).transpose()?;
        // A conversation has its special tokens written out.
        let mut ids = encode(&tokenizer, chat.as_ref().unwrap_or(&self.prompt), chat.is_none())
            .map_err(|reason| Error::BadTokens(format!("--prompt cannot be tokenised: {reason}")))?;
        if ids.is_empty() {
            ids.extend(model.config().start_token());
        }
        check_tokens(&model, std::slice::from_ref(&ids), "--prompt")?;
        let gpu = self.device.open(&progress)?;
        if chat.is_none() {
            print(&self.prompt)?;
        }
        let mut stream = tokenizer.decode_stream(true);
        // The stream learns the prompt first, so that what follows is spaced as in the middle of a text.
        for &id in &ids {
            let _ = fenced(|| stream.step(id));
        }
        let sampling = Sampling { temperature: self.temperature, top_p: self.top_p, seed: self.seed };
        generate(&gpu, &model, &ids, self.max_new_tokens, &sampling, |id| {
            if let Some(text) = fenced(|| stream.step(id)).map_err(|reason| Error::BadTokens(format!("token {id} cannot be decoded: {reason}")))? {
                print(&text)?;
            }
            crate::progress::Progress::advance(&progress, 0)?;
            Ok(true)
        })?;
        print("\n")?;
        self.device.close(&gpu, &progress)
    }

    /// The prompt as a conversation that waits for its answer.
    fn rendered(&self, model: &Model) -> Result<String> {
        let chat = Chat::of_prompt(&self.prompt, self.system.as_deref());
        let template = ChatTemplate::find(model.directory()).map_err(|error| match error {
            Error::BadFile { path, reason } => {
                Error::BadFile { path, reason: format!("{reason}; without --chat, the prompt is continued as it stands") }
            }
            other => other,
        })?;
        template.render(&chat, true).map_err(Error::BadTokens)
    }
}
