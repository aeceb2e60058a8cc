//! `slicegpt-gpu synthesize`

use std::path::PathBuf;

use super::{
    arguments::{DtypeArg, ForceArgs},
    progress::Bars,
};
use crate::{
    checkpoint::{OutputDirectory, Writes},
    error::{Error, Result},
    model::{SHAPES, Shape},
    progress::Progress,
    run::grouped,
    synthetic::{self, TokenRows},
};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The model whose shape to take
    #[arg(value_name = "SHAPE", value_parser = clap::builder::PossibleValuesParser::new(SHAPES.iter().map(|shape| shape.name)))]
    shape: String,
    /// The directory to write
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Number of layers [default: the model's own]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    layers: Option<u32>,
    /// Type of the written tensors
    #[arg(long, default_value = "f16")]
    dtype: DtypeArg,
    /// Rows of random tokens in DIR/tokens.json
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    cal_nsamples: u32,
    /// Tokens of each row, at most the model's own maximum
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    cal_max_seqlen: u32,
    /// Seed of everything drawn at random
    #[arg(long, default_value_t = 42, value_name = "N")]
    seed: u64,
    #[command(flatten)]
    force: ForceArgs,
}

impl Args {
    pub fn execute(&self) -> Result<()> {
        let progress = Bars::log();
        let config = Shape::named(&self.shape)?.config(self.layers.map(|layers| layers as usize))?;
        let longest = config.max_position_embeddings;
        if self.cal_max_seqlen as usize > longest {
            return Err(Error::Usage(format!(
                "--cal-max-seqlen {}: {} has only {longest} positions",
                self.cal_max_seqlen, self.shape
            )));
        }
        let mut writes = Writes::new(self.force.force);
        writes.directory("--output", &self.output)?;
        let directory = OutputDirectory::create(&self.output, writes.force())?;
        let tokens = TokenRows { rows: self.cal_nsamples as usize, len: self.cal_max_seqlen as usize };
        synthetic::write(&directory, &config, self.dtype.into(), tokens, self.seed, &progress)?;
        progress.end();
        directory.finish()?;
        progress.say(&format!(
            "{}: {} random parameters in the shape of {}, and tokens.json for --calibration",
            self.output.display(),
            grouped(config.parameters()),
            self.shape
        ));
        Ok(())
    }
}
