//! The rule for everything that is written, whichever option names it: what one invocation reads is never written, nor
//! anything twice; a file that is there is replaced by `--force` alone, a directory only if it is empty or an output of
//! this program.
//!
//! Files are the same if they are one file on the disk, through whatever links, hard links or spellings they are named.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    made::{RECORD, is_output_file},
    output::{check_target, partial, resolved},
    target::Place,
};
use crate::error::{Error, Result};

/// Names of files that belong to a model beside its config and its weights, in the order in which they are listed.
pub const COMPANION_FILES: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
];

/// Names by which a file in a model's directory is the model, or an addition to it.
const MODEL_FILES: &[&str] = &[
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    ADDITIONAL_TEMPLATES,
    RECORD,
];

/// What one invocation reads and writes.
#[derive(Debug, Default)]
pub struct Writes {
    force: bool,
    inputs: Arc<Inputs>,
    /// The options and the places of what is written, but for pipes and devices, which may be named twice.
    outputs: Vec<(&'static str, PathBuf)>,
}

#[derive(Debug, Default, Clone)]
struct Inputs {
    files: Vec<Known>,
    /// Directories of models, and the files in them.
    models: Vec<(Known, Vec<Known>)>,
}

/// Something on the disk.
#[derive(Debug, Clone)]
struct Known {
    /// As it was named.
    path: PathBuf,
    canonical: Option<PathBuf>,
    identity: Option<(u64, u64)>,
}

impl Known {
    fn at(path: &Path) -> Self {
        Self { path: path.into(), canonical: fs::canonicalize(path).ok(), identity: identity(path) }
    }

    fn is(&self, other: &Self) -> bool {
        (self.canonical.is_some() && self.canonical == other.canonical)
            || (self.identity.is_some() && self.identity == other.identity)
    }

    /// Whether `other` is this directory or lies in it.
    fn holds(&self, other: &Self) -> bool {
        self.is(other)
            || other.canonical.iter().flat_map(|path| path.ancestors()).any(|above| self.is(&Self::at(above)))
    }
}

/// What makes a file itself, by whatever name: device and number.
#[cfg(unix)]
fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn identity(_: &Path) -> Option<(u64, u64)> {
    None
}

impl Inputs {
    /// Refuses names that would make a model that is read another one.
    fn check_no_part(&self, option: &str, path: &Path) -> Result<()> {
        let above = |path: &Path| {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            Known::at(parent)
        };
        let parent = above(path);
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let in_templates = parent.path.ends_with(ADDITIONAL_TEMPLATES).then(|| above(&parent.path));
        let part_of = |(directory, _): &&(Known, Vec<Known>)| {
            (directory.is(&parent) && is_part(&name)) || in_templates.as_ref().is_some_and(|above| directory.is(above))
        };
        match self.models.iter().find(part_of) {
            Some((directory, _)) => Err(Error::Usage(format!(
                "{option} {} would become a part of the model in {}; give another name",
                path.display(),
                directory.path.display()
            ))),
            None => Ok(()),
        }
    }
}

/// Whether a file of this name, in small letters, is taken for a part of the model in whose directory it lies.
fn is_part(name: &str) -> bool {
    let weights = name.ends_with(".safetensors") && (name.contains("-of-") || name.starts_with("consolidated"));
    let terms = ["license", "licence", "notice", "copying"].iter().any(|terms| name.starts_with(terms));
    let version = name.starts_with("tokenizer.") && name.ends_with(".json");
    [MODEL_FILES, COMPANION_FILES].concat().contains(&name)
        || is_foreign_vocabulary(name)
        || weights
        || terms
        || version
}

/// Whether a file holds a vocabulary in a form that is only read by other programs.
pub fn is_foreign_vocabulary(name: &str) -> bool {
    let sentencepiece = name.ends_with(".model") || name.starts_with("tokenizer.model");
    sentencepiece || name.ends_with(".tiktoken") || ["tekken.json", "vocab.txt"].contains(&name)
}

/// The directory of a model's chat templates beside the default one, each in `NAME.jinja`.
pub const ADDITIONAL_TEMPLATES: &str = "additional_chat_templates";

impl Writes {
    /// Nothing is read or written yet; `force` allows files and outputs of this program to be replaced.
    pub fn new(force: bool) -> Self {
        Self { force, ..Self::default() }
    }

    /// Whether what is there may be replaced.
    pub fn force(&self) -> bool {
        self.force
    }

    /// Protects a file that is read.
    pub fn reads(&mut self, path: &Path) {
        Arc::make_mut(&mut self.inputs).files.push(Known::at(path));
    }

    /// Protects a model: its files, and all that is in its directory.
    pub fn reads_model<'a>(&mut self, directory: &Path, files: impl Iterator<Item = &'a Path>) {
        let list = |directory: &Path| {
            let entries = fs::read_dir(directory).into_iter().flatten().filter_map(|entry| entry.ok());
            entries.map(|entry| Known::at(&entry.path())).collect::<Vec<_>>()
        };
        let mut inside = list(directory);
        // Of what lies deeper only links could be missed: everything below is known by its path.
        let deeper: Vec<Known> =
            inside.iter().filter(|known| known.path.is_dir()).flat_map(|known| list(&known.path)).collect();
        inside.extend(deeper);
        inside.retain(|known| known.path.is_file());
        let inputs = Arc::make_mut(&mut self.inputs);
        inputs.files.extend(files.map(Known::at));
        inputs.models.push((Known::at(directory), inside));
    }

    /// The file that `option` names.
    ///
    /// # Errors
    /// [`Error::Usage`] if it is read, is written already or can be no file; [`Error::OutputExists`]; [`Error::Write`]
    /// if it cannot be written.
    pub fn file(&mut self, option: &'static str, path: &Path) -> Result<FileTarget> {
        let target = FileTarget {
            option,
            path: path.into(),
            place: Place::find(option, path)?,
            force: self.force,
            inputs: self.inputs.clone(),
        };
        target.check()?;
        target.place.try_writing().map_err(Error::write(path))?;
        if !matches!(target.place, Place::Stream(_)) {
            self.claim(option, place(path))?;
        }
        Ok(target)
    }

    /// Checks the directory that `option` names.
    ///
    /// # Errors
    /// [`Error::Usage`] if something in it is read or is written already, or it may not be replaced;
    /// [`Error::OutputExists`].
    pub fn directory(&mut self, option: &'static str, path: &Path) -> Result<()> {
        let this = Known::at(path);
        // What a model's directory has in an earlier output is that output's; a link to a file in one is the model's.
        let own = |file: &&Known| !file.path.parent().is_some_and(|parent| this.holds(&Known::at(parent)));
        let models =
            self.inputs.models.iter().flat_map(|(directory, files)| files.iter().filter(own).chain([directory]));
        let inputs: Vec<&Known> = self.inputs.files.iter().chain(models).collect();
        let held_by = |place: &Known| inputs.iter().find(|input| place.holds(input)).copied();
        let lost = match held_by(&this) {
            Some(lost) => Some(lost),
            // Removed at the end, with all that lies in it.
            None => held_by(&Known::at(&partial(&resolved(path)?)?)),
        };
        if let Some(lost) = lost {
            return Err(Error::Usage(format!(
                "{option} {} holds the input {}, which would be overwritten; give another directory",
                path.display(),
                lost.path.display()
            )));
        }
        check_target(option, path, self.force)?;
        self.inputs.check_no_part(option, path)?;
        self.claim(option, place(path))?;
        let kept = place(&partial(&resolved(path)?)?);
        self.claim(option, kept)
    }

    /// Keeps a place for one option.
    fn claim(&mut self, option: &'static str, place: PathBuf) -> Result<()> {
        if let Some((other, taken)) = self.outputs.iter().find(|(_, taken)| overlap(taken, &place)) {
            return Err(Error::Usage(format!(
                "{option} {} and {other} {} cannot both be written: they are the same, or one lies in the other",
                place.display(),
                taken.display()
            )));
        }
        self.outputs.push((option, place));
        Ok(())
    }
}

/// Where something is or will be: links are resolved as far as there is anything.
fn place(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let found = path.ancestors().find_map(|above| Some((above, fs::canonicalize(above).ok()?)));
    match found.and_then(|(above, canonical)| Some((canonical, path.strip_prefix(above).ok()?))) {
        Some((canonical, rest)) if rest.as_os_str().is_empty() => canonical,
        Some((canonical, rest)) => canonical.join(rest),
        None => path,
    }
}

/// Whether two places are the same or one is in the other; without case, as some file systems see it.
fn overlap(a: &Path, b: &Path) -> bool {
    let lower = |path: &Path| PathBuf::from(path.to_string_lossy().to_lowercase());
    let (a, b) = (lower(a), lower(b));
    a.starts_with(&b) || b.starts_with(&a)
}

/// A file that may be written.
pub struct FileTarget {
    option: &'static str,
    /// As it was named.
    path: PathBuf,
    place: Place,
    force: bool,
    inputs: Arc<Inputs>,
}

impl FileTarget {
    /// A file of this name; `force` allows one that is there to be replaced.
    ///
    /// # Errors
    /// As [`Writes::file`].
    pub fn new(path: &Path, force: bool) -> Result<Self> {
        Writes::new(force).file("--output", path)
    }

    /// Its name as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Looks again whether it may be written: at the end of the work, other things may stand there.
    ///
    /// # Errors
    /// As [`Writes::file`].
    pub(super) fn check_again(&self) -> Result<Place> {
        let now = Self {
            place: Place::find(self.option, &self.path)?,
            path: self.path.clone(),
            inputs: self.inputs.clone(),
            ..*self
        };
        now.check()?;
        Ok(now.place)
    }

    /// Refuses names that would make the model that is read another one.
    fn check_new(&self) -> Result<()> {
        self.inputs.check_no_part(self.option, &self.path)
    }

    fn check(&self) -> Result<()> {
        if let Place::New(_) = self.place {
            return self.check_new();
        }
        let this = Known::at(&self.path);
        let shown = || format!("{} {}", self.option, self.path.display());
        // Devices are no files, and may be read and written at once.
        if this.path.is_file() {
            if let Some(lost) = self.inputs.files.iter().find(|input| input.is(&this)) {
                return Err(Error::Usage(format!(
                    "{} is the input {}, which would be overwritten",
                    shown(),
                    lost.path.display()
                )));
            }
            let model = self
                .inputs
                .models
                .iter()
                .find(|(directory, files)| directory.holds(&this) || files.iter().any(|file| file.is(&this)));
            if let Some((directory, _)) = model
                && !is_output_file(&self.path)
            {
                return Err(Error::Usage(format!(
                    "{} is a file of the model in {}, which would be overwritten; give another name",
                    shown(),
                    directory.path.display()
                )));
            }
        }
        match self.place {
            Place::Replaced(_) if !self.force => {
                Err(Error::OutputExists { option: self.option, path: self.path.clone() })
            }
            _ => Ok(()),
        }
    }
}
