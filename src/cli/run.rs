//! `slicegpt-gpu run`

use super::{slicing::SlicingArgs, work::WorkArgs};
use crate::{
    error::Result,
    run::{Request, Slice, SliceRequest},
};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    slicing: SlicingArgs,
    #[command(flatten)]
    work: WorkArgs,
}

impl Args {
    pub fn request(&self) -> Request<SliceRequest> {
        self.work.request(self.slicing.request(), &self.slicing.suffix())
    }

    pub fn execute(&self) -> Result<()> {
        self.work.execute::<Slice>(&self.request())
    }
}
