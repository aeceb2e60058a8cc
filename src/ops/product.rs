//! How a matrix product is divided among threads: the configurations that every product kernel can be compiled with.

use std::{fmt, str::FromStr};

use crate::gpu::Gpu;

/// A configuration of the kernels of matrix products. All give the same results to the last bit; they differ in speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProductConfig {
    /// Rows and columns of results by one thread: 4 or 8.
    pub block: u32,
    /// Threads of a workgroup along columns and rows.
    pub threads: [u32; 2],
    /// Steps of the sum in workgroup memory at a time; none where each thread reads for itself.
    pub steps: Option<u32>,
}

const fn tiled(block: u32, x: u32, y: u32, steps: u32) -> ProductConfig {
    ProductConfig { block, threads: [x, y], steps: Some(steps) }
}

const fn direct(block: u32, x: u32, y: u32) -> ProductConfig {
    ProductConfig { block, threads: [x, y], steps: None }
}

/// What is worth measuring on an adapter, the defaults first: of hardware, then of software.
pub(super) const CANDIDATES: [ProductConfig; 7] = [
    tiled(4, 8, 8, 8),
    direct(8, 8, 1),
    tiled(8, 8, 8, 16),
    tiled(4, 16, 16, 16),
    tiled(8, 16, 8, 16),
    tiled(8, 16, 16, 8),
    direct(8, 8, 8),
];

// Sums in chunks of 64 steps end with what is in workgroup memory.
const _: () = {
    let mut index = 0;
    while index < CANDIDATES.len() {
        if let Some(steps) = CANDIDATES[index].steps {
            assert!(64 % steps == 0);
        }
        index += 1;
    }
};

impl ProductConfig {
    /// Every configuration that this adapter can run and that is worth trying.
    pub fn all(gpu: &Gpu) -> impl Iterator<Item = Self> {
        CANDIDATES.into_iter().filter(|config| config.fits(gpu))
    }

    /// What to use where nothing was measured. Published comparisons find small tiles best over GPUs of all vendors; on
    /// CPUs, measured here, workgroup memory is no faster than any other and its copies only cost.
    pub fn default_of(gpu: &Gpu) -> Self {
        if gpu.adapter().software { CANDIDATES[1] } else { CANDIDATES[0] }
    }

    fn fits(&self, gpu: &Gpu) -> bool {
        let limits = gpu.adapter();
        let bytes = 4 * self.steps.unwrap_or(0) as usize * (self.tile_rows() + self.tile_columns());
        self.threads.iter().product::<u32>() <= limits.max_compute_invocations_per_workgroup
            && bytes <= limits.max_compute_workgroup_storage_size as usize
    }

    /// Rows of results by one workgroup.
    pub fn tile_rows(&self) -> usize {
        (self.block * self.threads[1]) as usize
    }

    /// Columns of results by one workgroup.
    pub fn tile_columns(&self) -> usize {
        (self.block * self.threads[0]) as usize
    }

    /// What the shaders call these numbers. `STEPS` means nothing to a kernel without workgroup memory.
    pub(super) fn constants(&self) -> [(&'static str, u32); 3] {
        [("THREADS_X", self.threads[0]), ("THREADS_Y", self.threads[1]), ("STEPS", self.steps.unwrap_or(4))]
    }
}

/// `8x8 16x16 k8`: block, threads, steps; `8x8 8x1 direct` without workgroup memory.
impl fmt::Display for ProductConfig {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { block, threads: [x, y], steps } = self;
        write!(f, "{block}x{block} {x}x{y} ")?;
        match steps {
            Some(steps) => write!(f, "k{steps}"),
            None => f.write_str("direct"),
        }
    }
}

impl FromStr for ProductConfig {
    type Err = ();

    /// The candidate of this name.
    fn from_str(name: &str) -> Result<Self, ()> {
        CANDIDATES.into_iter().find(|config| config.to_string() == name).ok_or(())
    }
}

/// The variants of a product shader: the block and the walk of a configuration before it.
macro_rules! product_shader {
    ($config:expr, $($file:literal),+) => {
        match ($config.block, $config.steps) {
            (8, Some(_)) => shader!("shared/product", "shared/block_8x8", "shared/walk_tiled", $($file),+),
            (8, None) => shader!("shared/product", "shared/block_8x8", "shared/walk_direct", $($file),+),
            (_, Some(_)) => shader!("shared/product", "shared/block_4x4", "shared/walk_tiled", $($file),+),
            (_, None) => shader!("shared/product", "shared/block_4x4", "shared/walk_direct", $($file),+),
        }
    };
}
pub(super) use product_shader;
