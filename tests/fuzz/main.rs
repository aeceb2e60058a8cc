//! Are files of any kind, however they were damaged or made up, read or refused: without a panic, and without more
//! memory than their size accounts for?
//!
//! Each test changes files that are right at random. Case N of a kind is the same in every run, so a case that fails
//! can be repeated alone:
//!
//! ```text
//! SLICEGPT_GPU_FUZZ_CASES=1000000 cargo test --release --test fuzz -- --nocapture
//! SLICEGPT_GPU_FUZZ_FIRST=4711 SLICEGPT_GPU_FUZZ_CASES=1 cargo test --release --test fuzz config -- --nocapture
//! ```

mod allocator;
mod config;
mod gguf;
#[path = "../support/gguf_reader.rs"]
mod gguf_reader;
#[path = "../support/gguf_split.rs"]
mod gguf_split;
mod mutate;
mod safetensors;
#[path = "../support/mod.rs"]
mod support;
mod tokenizer;
mod tokens;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use slicegpt_gpu::{Error, Result};
use support::Random;

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is {value:?}, no number")))
}

/// What became of the cases of a kind.
#[derive(Debug, Default)]
struct Outcome {
    read: u64,
    refused: u64,
    /// The most bytes that one case had at a time, beyond what was there before.
    most_bytes: usize,
    slowest: Duration,
}

/// How much a case may have in memory at a time: some for every case, and so many times the bytes of its files.
const BYTES: usize = 32 << 20;
const TIMES: usize = 64;

/// How long a case may take, in a build that is not optimised or beside other work.
const SECONDS: u64 = 20;

/// Runs the cases of a kind: `make` makes a case's files, which are so many bytes, and `read` reads them.
fn cases(
    kind: &str,
    default: u64,
    mut make: impl FnMut(&mut Random) -> usize,
    read: impl Fn(u64) -> Result<()>,
) -> Outcome {
    slicegpt_gpu::cli::hush_caught_panics();
    let first = number("SLICEGPT_GPU_FUZZ_FIRST").unwrap_or(0);
    let count = number("SLICEGPT_GPU_FUZZ_CASES").unwrap_or(default);
    let mut outcome = Outcome::default();
    let began = Instant::now();
    for case in first..first + count {
        let size = make(&mut Random::new(case));
        allocator::begin();
        let start = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| read(case)));
        let bytes = allocator::most();
        let took = start.elapsed();
        match result {
            Ok(Ok(())) => outcome.read += 1,
            Ok(Err(error)) => {
                let class = error.exit_code();
                assert!(class == 3 && !matches!(error, Error::Internal(_)), "{kind}, case {case}: {class}: {error}");
                outcome.refused += 1;
            }
            Err(_) => panic!("{kind}, case {case}: a panic, as said above"),
        }
        assert!(bytes <= BYTES + TIMES * size, "{kind}, case {case}: {bytes} bytes in memory for {size}");
        assert!(took < Duration::from_secs(SECONDS), "{kind}, case {case}: {took:?}");
        outcome.most_bytes = outcome.most_bytes.max(bytes);
        outcome.slowest = outcome.slowest.max(took);
    }
    println!("{kind}: {count} cases in {:.1?}: {outcome:?}", began.elapsed());
    // Cases that are all refused at the door, or that change nothing, would prove little.
    assert!(count < default || (outcome.read * 50 > count && outcome.refused * 10 > count), "{kind}: {outcome:?}");
    outcome
}
