//! `slicegpt-gpu devices`

use std::fmt::Write;

use super::print::{print, print_json};
use crate::{error::Result, gpu, run::bytes};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON array
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn execute(&self) -> Result<()> {
        let adapters = gpu::adapters();
        if self.json {
            print_json(&adapters)?;
        }
        if adapters.is_empty() {
            return Err(gpu::no_adapter());
        }
        if self.json {
            return Ok(());
        }
        let mut text = String::new();
        for adapter in &adapters {
            let default = if adapter.default { " (default)" } else { "" };
            let _ = writeln!(text, "{}: {}{default}", adapter.index, adapter.name);
            let _ = writeln!(
                text,
                "   type       {}{}",
                adapter.device_type,
                if adapter.software { ", software: right, but slow" } else { "" }
            );
            let _ = writeln!(text, "   backend    {}", adapter.backend);
            let _ = writeln!(text, "   driver     {}", adapter.driver);
            let _ = writeln!(
                text,
                "   limits     binding {}, buffer {}, workgroup memory {}, {} threads a workgroup, {} workgroups a \
                 dimension, {} buffers a kernel",
                bytes(adapter.max_storage_buffer_binding_size),
                bytes(adapter.max_buffer_size),
                bytes(adapter.max_compute_workgroup_storage_size.into()),
                adapter.max_compute_invocations_per_workgroup,
                adapter.max_compute_workgroups_per_dimension,
                adapter.max_storage_buffers_per_shader_stage
            );
            let _ = writeln!(
                text,
                "   features   {} (none is required)",
                if adapter.features.is_empty() { "none".into() } else { adapter.features.join(", ") }
            );
        }
        print(&text)
    }
}
