//! The precision of linear layers, and the matrix units that the lower one runs on.

use wgpu::{CooperativeMatrixProperties, CooperativeScalarType, DownlevelFlags, Features};

use crate::error::{Error, Result};

/// What the linear layers of a forward pass are computed in. All else is f32 always: covariances, rotations, shortcuts,
/// attention, norms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// f32 throughout.
    #[default]
    F32,
    /// Factors rounded to f16 and summed in f32, on matrix units, where there are more than a few tokens at a time.
    F16Matrix,
}

/// Units that multiply small square matrices of f16 and sum in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatrixUnits {
    /// Rows, columns and steps: 8 or 16.
    pub size: u32,
    /// Threads of four subgroups, of the largest that the adapter may use.
    pub threads: u32,
}

/// What the kernels for matrix units need of wgpu.
pub(super) const MATRIX_FEATURES: Features =
    Features::EXPERIMENTAL_COOPERATIVE_MATRIX.union(Features::SHADER_F16).union(Features::SUBGROUP);

impl MatrixUnits {
    /// All that there are kernels for.
    pub const ALL: [Self; 4] = [
        Self { size: 16, threads: 128 },
        Self { size: 16, threads: 256 },
        Self { size: 8, threads: 128 },
        Self { size: 8, threads: 256 },
    ];

    /// Those of an adapter.
    ///
    /// # Errors
    /// [`Error::Usage`] if it has none that there are kernels for, naming what is missing.
    pub(super) fn of(adapter: &wgpu::Adapter, features: Features) -> Result<Self> {
        let info = adapter.get_info();
        let refused = |missing: &str| {
            Error::Usage(format!(
                "--precision f16-matrix: {} {missing}; leave --precision out, or choose another --device \
                 (`slicegpt-gpu devices` lists features)",
                info.name
            ))
        };
        if !features.contains(MATRIX_FEATURES) {
            return Err(refused(
                "has no matrix units that its driver shows (features cooperative-matrix, shader-f16 and subgroup)",
            ));
        }
        let size = size_of(&adapter.cooperative_matrix_properties())
            .ok_or_else(|| refused("has no matrix units of 16x16x16 or 8x8x8 that multiply f16 and sum in f32"))?;
        let most = adapter.limits().max_compute_invocations_per_workgroup;
        Self::ALL
            .into_iter()
            .find(|units| units.size == size && 4 * info.subgroup_max_size <= units.threads && units.threads <= most)
            .ok_or_else(|| refused("has subgroups of more than 64 threads, or workgroups of fewer than four subgroups"))
    }
}

/// The largest square that multiplies f16 and sums in f32.
fn size_of(properties: &[CooperativeMatrixProperties]) -> Option<u32> {
    [16, 8].into_iter().find(|&size| {
        properties.iter().any(|one| {
            [one.m_size, one.n_size, one.k_size] == [size; 3]
                && (one.ab_type, one.cr_type) == (CooperativeScalarType::F16, CooperativeScalarType::F32)
        })
    })
}

/// The token that wgpu wants for features that it calls experimental: the only way to matrix units. For users who ask
/// for them.
#[expect(unsafe_code, reason = "wgpu makes it so")]
pub(super) fn experimental() -> wgpu::ExperimentalFeatures {
    // SAFETY: the token's condition is to know that wgpu may have defects there. The kernels that use it index within
    // what they declare, and take cooperative operations in uniform control flow.
    unsafe { wgpu::ExperimentalFeatures::enabled() }
}

/// Whether shaders may unpack f16, which some drivers without f16 arithmetic refuse.
pub(super) fn unpacks_f16(adapter: &wgpu::Adapter) -> bool {
    adapter.get_downlevel_capabilities().flags.contains(DownlevelFlags::SHADER_F16_IN_F32)
}
