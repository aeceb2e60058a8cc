//! A name for a file to write: what stands there decides how it is written, and keeps its kind.
//!
//! Nothing there: a new file. A regular file: replaced, if that was asked for. A link: what it leads to, and the link
//! stays. A pipe, a device such as the null device, standard output: written to. Anything else (a directory, a socket,
//! a disk) is refused by name.

use std::{
    fs::{self, File, FileType, Metadata, OpenOptions},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use tempfile::{Builder, NamedTempFile};

use crate::error::{Error, Result};

/// What is written, and how.
pub(super) enum Place {
    /// A file that was not there.
    New(PathBuf),
    /// A file that is there, by the name that is no link.
    Replaced(PathBuf),
    /// Written as it comes, and held open from the check on: closing it would tell a reader that all is written.
    Stream(File),
}

impl Place {
    /// Finds out what stands at `path`, which `option` names.
    ///
    /// # Errors
    /// [`Error::Usage`] if it can be no file; [`Error::Write`] if it could not be written.
    pub fn find(option: &str, path: &Path) -> Result<Self> {
        let refused = |reason: &str| Err(Error::Usage(format!("{option} {} {reason}", path.display())));
        let metadata = match path.symlink_metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            // Without the slash at its end, which asks for a directory.
            Err(_) if path.components().collect::<PathBuf>().is_file() => {
                return refused("names a file like a directory; leave out the slash at its end");
            }
            Err(error) => return Err(Error::Write { path: path.into(), source: error }),
            Ok(metadata) if metadata.is_symlink() => match fs::metadata(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let to = fs::read_link(path).unwrap_or_default();
                    return refused(&format!(
                        "is a link to {}, which is not there; remove the link, or give another name",
                        to.display()
                    ));
                }
                other => Some(other.map_err(Error::write(path))?),
            },
            Ok(metadata) => Some(metadata),
        };
        let Some(metadata) = metadata else {
            let separator = path
                .as_os_str()
                .as_encoded_bytes()
                .last()
                .is_some_and(|&byte| std::path::is_separator(char::from(byte)));
            return match path.file_name() {
                Some(_) if !separator => Ok(Self::New(path.into())),
                _ => refused("is not a name for a file"),
            };
        };
        match kind(path, &metadata) {
            Kind::File => Ok(Self::Replaced(fs::canonicalize(path).map_err(Error::write(path))?)),
            Kind::Directory => refused("is a directory; give the name of a file"),
            Kind::Pipe => open_pipe(path).map(Self::Stream).map_err(Error::write(path)),
            // Appended, so that what the file of a descriptor has already stays.
            Kind::Stream => OpenOptions::new().append(true).open(path).map(Self::Stream).map_err(Error::write(path)),
            Kind::Other => refused(
                "is neither a file nor a pipe nor a device that takes text, and will not be written; give another name",
            ),
        }
    }

    /// Finds out whether it can be written, and leaves everything as it is.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn try_writing(&self) -> io::Result<()> {
        match self {
            Self::Stream(_) => Ok(()),
            Self::New(path) => temporary_beside(path).map(drop),
            Self::Replaced(path) => {
                OpenOptions::new().append(true).open(path)?;
                temporary_beside(path).map(drop)
            }
        }
    }
}

/// A file with a name of its own where `path` is, so that it can take that name; removed when it is dropped.
pub(super) fn temporary_beside(path: &Path) -> io::Result<NamedTempFile> {
    let mut builder = Builder::new();
    builder.prefix(".slicegpt-gpu.").suffix(".tmp");
    // As any new file, not as the secrets that temporary files are taken for.
    #[cfg(unix)]
    let permissions = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o666);
    #[cfg(unix)]
    builder.permissions(permissions);
    builder.tempfile_in(path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

enum Kind {
    File,
    Directory,
    Pipe,
    Stream,
    Other,
}

fn kind(path: &Path, metadata: &Metadata) -> Kind {
    let found = metadata.file_type();
    match () {
        () if found.is_dir() => Kind::Directory,
        () if is_descriptor(path) => Kind::Stream,
        () if found.is_file() => Kind::File,
        () if is_pipe(found) => Kind::Pipe,
        () if is_character_device(found) => Kind::Stream,
        () => Kind::Other,
    }
}

/// Whether a name, perhaps through links, is that of an open descriptor, as `/dev/stdout` is.
fn is_descriptor(path: &Path) -> bool {
    let mut path = path.to_owned();
    // As many links as Linux follows.
    for _ in 0..40 {
        let Some(parent) = path.parent().and_then(|parent| fs::canonicalize(parent).ok()) else { return false };
        if parent == Path::new("/dev/fd") || (parent.starts_with("/proc") && parent.ends_with("fd")) {
            return true;
        }
        let Ok(to) = fs::read_link(&path) else { return false };
        path = parent.join(to);
    }
    false
}

#[cfg(unix)]
fn is_pipe(found: FileType) -> bool {
    std::os::unix::fs::FileTypeExt::is_fifo(&found)
}

#[cfg(unix)]
fn is_character_device(found: FileType) -> bool {
    std::os::unix::fs::FileTypeExt::is_char_device(&found)
}

/// How long a reader of a pipe may take to come.
#[cfg(unix)]
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// Opens a pipe, which would wait for ever for somebody to read from it.
#[cfg(unix)]
fn open_pipe(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;

    use rustix::{fs::OFlags, io::Errno};
    let began = std::time::Instant::now();
    loop {
        match OpenOptions::new().write(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path) {
            // Opened again, as writing should wait; the first one is held until then, so that the reader stays.
            Ok(_first) => return OpenOptions::new().write(true).open(path),
            Err(error) if error.raw_os_error() != Some(Errno::NXIO.raw_os_error()) => return Err(error),
            Err(_) if began.elapsed() > PATIENCE => {
                return Err(io::Error::other("no program reads from this pipe; start that first"));
            }
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(10)),
        }
    }
}

#[cfg(not(unix))]
fn is_pipe(_: FileType) -> bool {
    false
}

#[cfg(not(unix))]
fn is_character_device(_: FileType) -> bool {
    false
}

#[cfg(not(unix))]
fn open_pipe(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).open(path)
}
