//! `slicegpt-gpu generate`

use std::path::PathBuf;

use super::{
    DeviceArgs, ForceArgs,
    input::{check_tokens, open_model, writes_beside},
    print,
    progress::Bars,
};
use crate::{
    data::{encode, fenced, load_tokenizer},
    error::{Error, Result},
    generate::{Sampling, generate},
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model: a .safetensors file with its config.json beside it, or a directory
    model: PathBuf,
    /// The text to continue; empty to start from nothing
    #[arg(long)]
    prompt: String,
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
    force: ForceArgs,
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
        self.device.plan_trace(&mut writes_beside(&model, self.force.force), &progress)?;
        let tokenizer = load_tokenizer(model.directory())?;
        let mut ids = encode(&tokenizer, &self.prompt).map_err(|reason| Error::BadTokens(format!("--prompt cannot be tokenised: {reason}")))?;
        if ids.is_empty() {
            ids.extend(model.config().start_token());
        }
        check_tokens(&model, std::slice::from_ref(&ids), "--prompt")?;
        let gpu = self.device.open(&progress)?;
        print(&self.prompt)?;
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
}
