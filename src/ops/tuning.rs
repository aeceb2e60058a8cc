//! Which configuration of a matrix product is fastest here: measured once for each kind and size of product, on the
//! product at hand.

use std::time::Instant;

use super::product::ProductConfig;
use crate::{
    error::{Error, Result},
    gpu::Gpu,
};

/// Measuring waits until a kind of product has done this many multiply-adds: a run that is over sooner would gain
/// nothing.
const WORK_OF_HARDWARE: u64 = 1 << 36;
/// On software adapters compiling the candidates takes seconds, and the default is known to be good.
const WORK_OF_SOFTWARE: u64 = 1 << 40;
/// Measurements of each candidate, after one run that compiles it.
const REPEATS: usize = 3;
/// Shorter measurements would be of how long it takes to hand a GPU its work and to hear of its end.
const SHORTEST: f64 = 2e-3;
const MOST_RUNS: usize = 32;

impl Gpu {
    /// The configuration for a product of `[m, n]` results and `k` steps; `run` computes that product with a
    /// configuration, for measuring.
    ///
    /// # Errors
    /// Whatever `run` or the device reports.
    pub(super) fn product_config(
        &self,
        kernel: &str,
        [m, n, k]: [usize; 3],
        run: impl Fn(&ProductConfig) -> Result<()>,
    ) -> Result<ProductConfig> {
        if let Some(config) = self.choice(PINNED).and_then(|name| name.parse().ok()) {
            return Ok(config);
        }
        let default = ProductConfig::default_of(self);
        if !self.chooses() {
            return Ok(default);
        }
        let key = format!("{kernel} {}x{}", size_class(m), size_class(n));
        if let Some(config) = self
            .choice(&key)
            .and_then(|name| name.parse().ok())
            .filter(|config| ProductConfig::all(self).any(|one| one == *config))
        {
            return Ok(config);
        }
        let work = (m * n * k) as u64;
        let worth = if self.adapter().software { WORK_OF_SOFTWARE } else { WORK_OF_HARDWARE };
        let measuring = (ProductConfig::all(self).count() * (REPEATS + 1)) as u64 * work;
        if !self.is_worth_measuring(&key, work, worth.max(4 * measuring)) {
            return Ok(default);
        }
        let mut best = (f64::INFINITY, default);
        for config in ProductConfig::all(self) {
            let seconds = match self.seconds(|| run(&config)) {
                // No room to measure is no reason to stop.
                Err(Error::OutOfMemory(_)) => {
                    self.choose_for_now(&key, default.to_string());
                    return Ok(default);
                }
                other => other?,
            };
            if seconds < best.0 {
                best = (seconds, config);
            }
        }
        self.choose(&key, best.1.to_string());
        Ok(best.1)
    }

    /// Seconds of one of many runs in a row, at the fastest of a few measurements by the clock on the wall.
    ///
    /// # Errors
    /// Whatever `run` or the device reports.
    pub fn seconds(&self, run: impl Fn() -> Result<()>) -> Result<f64> {
        let several = |runs: usize| {
            let began = Instant::now();
            (0..runs).try_for_each(|_| run())?;
            self.finish()?;
            Ok::<_, Error>(began.elapsed().as_secs_f64() / runs as f64)
        };
        several(1)?;
        let mut shortest = several(1)?;
        let runs = ((SHORTEST / shortest.max(1e-9)).ceil() as usize).clamp(1, MOST_RUNS);
        for _ in 1..REPEATS {
            shortest = shortest.min(several(runs)?);
        }
        Ok(shortest)
    }

    /// Uses one configuration for all products of this device from now on, whatever was measured.
    pub fn pin_products(&self, config: ProductConfig) {
        self.choose_for_now(PINNED, config.to_string());
    }

    /// Does `run` with one configuration for all products, whatever was measured or pinned.
    pub fn with_products<T>(&self, config: ProductConfig, run: impl FnOnce() -> T) -> T {
        let before = self.choice(PINNED);
        self.pin_products(config);
        let result = run();
        // An empty name is no configuration.
        self.choose_for_now(PINNED, before.unwrap_or_default());
        result
    }

    /// What products run with on this device: by kernel and size, in results, where something was measured, and the
    /// default elsewhere.
    pub fn tuning(&self) -> Vec<(String, String)> {
        let mut list = self.choices();
        list.retain(|(key, _)| key != PINNED);
        list.push(("default".into(), ProductConfig::default_of(self).to_string()));
        list
    }
}

const PINNED: &str = "pinned";

/// Sizes that behave alike.
fn size_class(size: usize) -> &'static str {
    match size {
        0..=64 => "64",
        65..=256 => "256",
        257..=1024 => "1024",
        1025..=4096 => "4096",
        _ => "more",
    }
}
