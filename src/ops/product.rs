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
    pub walk: Walk,
}

/// How the threads of a workgroup come by what they multiply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Walk {
    /// Each thread reads for itself.
    Direct,
    /// Through workgroup memory, this many steps of the sum at a time.
    Tiled(u32),
    /// Likewise, and the next steps are read meanwhile.
    Ahead(u32),
}

impl Walk {
    /// Steps of the sum in workgroup memory at a time, if any.
    const fn steps(self) -> Option<u32> {
        match self {
            Self::Direct => None,
            Self::Tiled(steps) | Self::Ahead(steps) => Some(steps),
        }
    }
}

/// What tile.wgsl's PAD adds to a step of either matrix, in f32.
const PADDING: usize = 2;

const fn config(block: u32, [x, y]: [u32; 2], walk: Walk) -> ProductConfig {
    ProductConfig { block, threads: [x, y], walk }
}

/// What is worth measuring on an adapter, the defaults first: of hardware, then of software.
pub(super) const CANDIDATES: [ProductConfig; 10] = [
    config(4, [8, 8], Walk::Tiled(8)),
    config(8, [8, 1], Walk::Direct),
    config(8, [8, 8], Walk::Tiled(16)),
    config(4, [16, 16], Walk::Tiled(16)),
    config(8, [16, 8], Walk::Tiled(16)),
    config(8, [16, 16], Walk::Tiled(8)),
    config(8, [8, 8], Walk::Direct),
    config(4, [16, 16], Walk::Ahead(16)),
    config(8, [16, 8], Walk::Ahead(16)),
    config(8, [16, 16], Walk::Ahead(8)),
];

// Sums in chunks of 64 steps end with what is in workgroup memory; and a thread reads at most two parts of it ahead.
const _: () = {
    let mut index = 0;
    while index < CANDIDATES.len() {
        let ProductConfig { block, threads: [x, y], walk } = CANDIDATES[index];
        if let Some(steps) = walk.steps() {
            assert!(64 % steps == 0);
        }
        if let Walk::Ahead(steps) = walk {
            assert!(steps / 4 * (block / 4) * (x + y) <= 2 * x * y);
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
        let lines = self.tile_rows() + self.tile_columns();
        let bytes = 4 * self.walk.steps().unwrap_or(0) as usize * (lines + 2 * PADDING);
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
        [("THREADS_X", self.threads[0]), ("THREADS_Y", self.threads[1]), ("STEPS", self.walk.steps().unwrap_or(4))]
    }
}

/// `8x8 16x16 k8`: block, threads, steps; `8x8 16x16 k8 ahead` where the next are read meanwhile; `8x8 8x1 direct`
/// without workgroup memory.
impl fmt::Display for ProductConfig {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { block, threads: [x, y], walk } = self;
        write!(f, "{block}x{block} {x}x{y} ")?;
        match walk {
            Walk::Direct => f.write_str("direct"),
            Walk::Tiled(steps) => write!(f, "k{steps}"),
            Walk::Ahead(steps) => write!(f, "k{steps} ahead"),
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
    ($config:expr, $($file:literal),+) => {{
        use $crate::ops::product::Walk::{Ahead, Direct, Tiled};
        match ($config.block, $config.walk) {
            (8, Direct) => shader!("shared/product", "shared/block_8x8", "shared/walk_direct", $($file),+),
            (8, Tiled(_)) => {
                shader!("shared/product", "shared/block_8x8", "shared/tile", "shared/walk_tiled", $($file),+)
            }
            (8, Ahead(_)) => {
                shader!("shared/product", "shared/block_8x8", "shared/tile", "shared/walk_ahead", $($file),+)
            }
            (_, Direct) => shader!("shared/product", "shared/block_4x4", "shared/walk_direct", $($file),+),
            (_, Tiled(_)) => {
                shader!("shared/product", "shared/block_4x4", "shared/tile", "shared/walk_tiled", $($file),+)
            }
            (_, Ahead(_)) => {
                shader!("shared/product", "shared/block_4x4", "shared/tile", "shared/walk_ahead", $($file),+)
            }
        }
    }};
}
pub(super) use product_shader;
