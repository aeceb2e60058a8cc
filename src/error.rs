//! What can go wrong, one variant for each thing that the caller can act on, and the exit code that tells scripts
//! which.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// The result of everything here that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong. The messages say what was expected, what was found, and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request contradicts itself or the machine; other flags would work.
    #[error("{0}")]
    Usage(String),
    /// An input file cannot be read.
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: std::io::Error },
    /// An input file is damaged, hostile, or not what its name says.
    #[error("{path}: {reason}")]
    BadFile { path: PathBuf, reason: String },
    /// No row of the architecture table has this `model_type`.
    #[error("unknown model_type {model_type:?} in {path}; known: {known}")]
    UnknownArchitecture { model_type: String, path: PathBuf, known: String },
    /// A config field that changes the maths in a way that is not implemented.
    #[error("unsupported {field} = {value} in {path}: {reason}")]
    UnsupportedField { field: String, value: String, path: PathBuf, reason: String },
    /// A tensor is absent, or has another shape or type than config.json implies.
    #[error("tensor {name} in {path}: {reason}")]
    BadTensor { name: String, path: PathBuf, reason: String },
    /// Several things are wrong with an input: all that were found before any work began, the first one counts.
    #[error("{}", listed(.0))]
    Several(Vec<Error>),
    /// Token ids or text that the model cannot take.
    #[error("{0}")]
    BadTokens(String),
    /// Matrices whose shapes do not fit together.
    #[error("{op}: {reason}")]
    Shape { op: &'static str, reason: String },
    /// A result that is not a number, or a solve that failed its check.
    #[error("{0}")]
    Numerical(String),
    /// No adapter that could be used.
    #[error("{0}")]
    NoAdapter(String),
    /// The GPU or the host has too little memory.
    #[error("{0}")]
    OutOfMemory(String),
    /// The device went away (driver reset, unplugged, out of power).
    #[error("the GPU device was lost: {0}")]
    DeviceLost(String),
    /// The driver or a shader reported an error of its own.
    #[error("the GPU reported an error: {0}")]
    Gpu(String),
    /// The output cannot be written.
    #[error("cannot write {path}")]
    Write { path: PathBuf, source: std::io::Error },
    /// What `option` names is already there.
    #[error("{path} already exists; give another {option}, or --force to replace it")]
    OutputExists { option: &'static str, path: PathBuf },
    /// A file is whole, but could not be given its name because of `source`.
    #[error("what was written is kept in {kept}")]
    Displaced { kept: PathBuf, source: Box<Error> },
    /// A mistake in this program; nothing that was asked for is wrong.
    #[error("this should not happen, please report it: {0}")]
    Internal(String),
    /// Stopped by Ctrl-C.
    #[error("interrupted")]
    Interrupted,
    /// Stopped by `source`, but what was done before can be resumed.
    #[error("stopped; progress is kept in {path}, and the same command with --resume continues")]
    Kept { path: PathBuf, source: Box<Error> },
}

impl Error {
    /// The exit code of the program: 1 runtime, 2 usage, 3 bad input file, 4 no adapter, 5 out of memory, 6 device
    /// lost, 7 disk, 130 interrupted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Shape { .. } | Self::Numerical(_) | Self::Gpu(_) | Self::Internal(_) => 1,
            Self::Usage(_) | Self::OutputExists { .. } => 2,
            Self::Read { .. }
            | Self::BadFile { .. }
            | Self::UnknownArchitecture { .. }
            | Self::UnsupportedField { .. }
            | Self::BadTensor { .. }
            | Self::BadTokens(_) => 3,
            Self::Several(errors) => errors.first().map_or(3, Self::exit_code),
            Self::NoAdapter(_) => 4,
            Self::OutOfMemory(_) => 5,
            Self::DeviceLost(_) => 6,
            Self::Write { .. } => 7,
            Self::Interrupted => 130,
            Self::Kept { source, .. } | Self::Displaced { source, .. } => source.exit_code(),
        }
    }

    /// Whether the same run may go further at another time, or with more memory: nothing is wrong with what it is asked
    /// to do.
    pub fn can_go_on(&self) -> bool {
        matches!(
            self,
            Self::Interrupted
                | Self::Write { .. }
                | Self::Read { .. }
                | Self::OutOfMemory(_)
                | Self::DeviceLost(_)
                | Self::Gpu(_)
                | Self::NoAdapter(_)
        )
    }

    /// All of these as one; `None` of none.
    pub(crate) fn all(mut errors: Vec<Self>) -> Option<Self> {
        if errors.len() > 1 { Some(Self::Several(errors)) } else { errors.pop() }
    }

    pub(crate) fn bad_file(path: &Path, reason: impl Into<String>) -> Self {
        Self::BadFile { path: path.to_owned(), reason: reason.into() }
    }

    /// For `map_err` on what can only fail by a mistake here, such as serialising our own types.
    pub(crate) fn internal(error: impl std::fmt::Display) -> Self {
        Self::Internal(error.to_string())
    }

    pub(crate) fn shape(op: &'static str, reason: impl Into<String>) -> Self {
        Self::Shape { op, reason: reason.into() }
    }

    /// For `map_err` on whatever reads `path`.
    pub(crate) fn read(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| match std::fs::read_link(path) {
            Ok(to) if source.kind() == ErrorKind::NotFound => {
                let reason = format!("it is a link to {}, which is not there; mend the link", to.display());
                Self::Read { path: path.to_owned(), source: std::io::Error::new(ErrorKind::NotFound, reason) }
            }
            _ => Self::Read { path: path.to_owned(), source },
        }
    }

    /// For `map_err` on whatever opens `path` of an unfinished run: where it is gone, there is nothing to resume.
    pub(crate) fn kept<F: FnOnce(std::io::Error) -> Self>(
        path: &Path,
        otherwise: F,
    ) -> impl FnOnce(std::io::Error) -> Self + use<'_, F> {
        move |source| match source.kind() {
            std::io::ErrorKind::NotFound => {
                Self::bad_file(path, "missing from the unfinished run; --force starts over")
            }
            _ => otherwise(source),
        }
    }

    /// For `map_err` on whatever writes `path`.
    pub(crate) fn write(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        |source| Self::Write { path: path.to_owned(), source }
    }
}

/// Says by how much a ceiling is too low for a phase, and what else would help.
pub(crate) fn too_low(flag: &str, phase: &str, needed: u64, most: u64, advice: &str) -> String {
    let over = shown(needed - most);
    format!(
        "{flag} is too low by {over}: {phase} takes at least {}, and {} may be taken; {advice}",
        shown(needed),
        shown(most)
    )
}

/// Bytes in the units that ceilings are given in.
fn shown(bytes: u64) -> String {
    match bytes {
        0..0x100000 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        0x100000..0x40000000 => format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
        _ => format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

/// A text for a message: whole if short.
pub(crate) fn shortened(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// What is wrong, the first few in words.
fn listed(errors: &[Error]) -> String {
    const MOST: usize = 5;
    let shown: Vec<String> = errors.iter().take(MOST).map(ToString::to_string).collect();
    let more = errors.len() - shown.len();
    let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("{} things are wrong: {}{rest}", errors.len(), shown.join("; "))
}
