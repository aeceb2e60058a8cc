//! Kernels: compiled once per set of constants, bound, checked against the adapter's limits and dispatched.

use std::fmt::Write;

use bytemuck::Pod;

use super::{Gpu, Matrix, faults::lock};
use crate::error::{Error, Result};

/// What a kernel needs of an adapter beyond what all have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Nothing,
    /// To unpack f16 ([`Gpu::unpacks_f16`]).
    UnpackF16,
    /// Matrix units, with what goes with them ([`super::MatrixUnits`]).
    MatrixUnits,
}

/// A WGSL program and the constants that it is compiled with.
///
/// The constants are put before the source as `const NAME: u32 = value;` (WGSL's `override` cannot size the private
/// arrays that hold a thread's block of results). Binding 0 is the `Params` uniform, the matrices follow from binding
/// 1.
#[derive(Debug, Clone)]
pub struct Kernel {
    pub name: &'static str,
    pub source: &'static str,
    pub constants: Vec<(&'static str, u32)>,
}

impl Kernel {
    /// The WGSL that is compiled.
    pub fn wgsl(&self) -> String {
        // WGSL wants its directives before all else.
        let is_directive = |line: &&str| line.starts_with("enable ");
        let mut text = String::new();
        for directive in self.source.lines().filter(is_directive) {
            let _ = writeln!(text, "{directive}");
        }
        for (name, value) in &self.constants {
            let _ = writeln!(text, "const {name}: u32 = {value}u;");
        }
        for line in self.source.lines().filter(|line| !is_directive(line)) {
            let _ = writeln!(text, "{line}");
        }
        text
    }

    /// What an adapter must have to compile it.
    pub fn need(&self) -> Need {
        if self.source.contains("enable wgpu_cooperative_matrix;") {
            Need::MatrixUnits
        } else if self.source.contains("unpack2x16float(") {
            Need::UnpackF16
        } else {
            Need::Nothing
        }
    }
}

/// A matrix bound to a kernel, or nothing where the kernel can do without.
#[derive(Debug, Clone, Copy)]
pub struct Binding<'a>(pub Option<&'a Matrix>);

impl<'a> From<&'a Matrix> for Binding<'a> {
    fn from(matrix: &'a Matrix) -> Self {
        Self(Some(matrix))
    }
}

impl<'a> From<Option<&'a Matrix>> for Binding<'a> {
    fn from(matrix: Option<&'a Matrix>) -> Self {
        Self(matrix)
    }
}

impl Gpu {
    /// Records one dispatch of `workgroups` groups: `params` at binding 0, `bindings` from 1. `work` is its cost in
    /// multiply-adds.
    ///
    /// Nothing bound may alias a matrix that the kernel writes to.
    ///
    /// # Errors
    /// [`Error::Shape`] if a binding or the grid is larger than the adapter allows (callers tile, so this is a defect
    /// of theirs).
    pub fn dispatch<P: Pod>(
        &self,
        kernel: &Kernel,
        params: &P,
        bindings: &[Binding],
        workgroups: [u32; 3],
        work: u64,
    ) -> Result<()> {
        if workgroups.contains(&0) {
            return Ok(());
        }
        let most = self.adapter().max_compute_workgroups_per_dimension;
        if workgroups.iter().any(|&count| count > most) {
            return Err(Error::shape(
                kernel.name,
                format!("{workgroups:?} workgroups exceed the limit of {most} a dimension"),
            ));
        }
        for matrix in bindings.iter().filter_map(|binding| binding.0) {
            if matrix.byte_len() > self.max_binding_size() {
                return Err(Error::shape(
                    kernel.name,
                    format!(
                        "a [{}, {}] matrix exceeds the largest binding of {} bytes",
                        matrix.rows(),
                        matrix.cols(),
                        self.max_binding_size()
                    ),
                ));
            }
        }
        let pipeline = self.pipeline(kernel);
        let layout = pipeline.get_bind_group_layout(0);
        self.record_pass(kernel.name, bytemuck::bytes_of(params), work, |pass, params| {
            let mut entries =
                vec![wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(params) }];
            entries.extend(bindings.iter().zip(1..).map(|(binding, index)| wgpu::BindGroupEntry {
                binding: index,
                resource: match binding.0 {
                    Some(matrix) => wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer: &matrix.buffer,
                        offset: matrix.byte_offset(),
                        size: wgpu::BufferSize::new(matrix.byte_len()),
                    }),
                    None => self.nothing.as_entire_binding(),
                },
            }));
            let descriptor = wgpu::BindGroupDescriptor { label: Some(kernel.name), layout: &layout, entries: &entries };
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &self.device.create_bind_group(&descriptor), &[]);
            let [x, y, z] = workgroups;
            pass.dispatch_workgroups(x, y, z);
        })
    }

    /// Names and constants of the kernels compiled so far.
    #[doc(hidden)]
    pub fn compiled(&self) -> Vec<(&'static str, Vec<(&'static str, u32)>)> {
        lock(&self.pipelines).keys().map(|(name, _, constants)| (*name, constants.clone())).collect()
    }

    fn pipeline(&self, kernel: &Kernel) -> wgpu::ComputePipeline {
        let key = (kernel.name, kernel.source.as_ptr(), kernel.constants.clone());
        lock(&self.pipelines)
            .entry(key)
            .or_insert_with(|| {
                let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
                    label: Some(kernel.name),
                    source: wgpu::ShaderSource::Wgsl(kernel.wgsl().into()),
                });
                self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                    label: Some(kernel.name),
                    layout: None,
                    module: &module,
                    entry_point: Some("main"),
                    compilation_options: Default::default(),
                    cache: None,
                })
            })
            .clone()
    }
}
