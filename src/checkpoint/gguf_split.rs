//! A model in several GGUF files, as llama.cpp's gguf-split makes them of one: `NAME-00001-of-00003.gguf` has the
//! metadata, and each has tensors. They are read as if they were one file.

use std::{
    collections::btree_map,
    fs::File,
    path::{Path, PathBuf},
};

use super::{
    diagnose,
    gguf_header::{GgufField, GgufHeader},
    reader::open,
};
use crate::error::{Error, Result};

const NUMBER: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

/// As many as the metadata have bits for.
const MOST_FILES: usize = u16::MAX as usize;

/// Digits of the numbers in a name, at least.
const DIGITS: usize = 5;

/// What the name of a file says of the model that it has a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GgufSplit<'a> {
    /// The name of the model, with the directories before it.
    pub stem: &'a str,
    /// Which file it is, from 1 on.
    pub number: usize,
    /// How many files there are.
    pub count: usize,
}

impl<'a> GgufSplit<'a> {
    /// What a name says; `None` if it is not the name of one of several files.
    pub fn parse(name: &'a str) -> Option<Self> {
        let number = |digits: &str| {
            let plain = digits.len() >= DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| digits.parse().ok()).flatten()
        };
        let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (stem, this) = rest.rsplit_once('-')?;
        let (this, count) = (number(this)?, number(count)?);
        let sound = (1..=count).contains(&this) && (2..=MOST_FILES).contains(&count);
        sound.then_some(Self { stem, number: this, count })
    }

    /// The names of all files of the model, in order.
    pub fn names(self) -> impl Iterator<Item = String> {
        (1..=self.count).map(move |number| format!("{}-{number:05}-of-{:05}.gguf", self.stem, self.count))
    }

    fn of(path: &'a Path) -> Option<Self> {
        Self::parse(path.file_name()?.to_str()?)
    }

    /// All files of the model of which this one is a part by its name, in order, whether or not they are there; `None`
    /// if its name does not say so.
    pub fn paths(path: &'a Path) -> Option<Vec<PathBuf>> {
        Some(Self::of(path)?.names().map(|name| path.with_file_name(name)).collect())
    }
}

/// The open files of a model, the first of them first, and what they begin with, taken together.
pub struct GgufFiles {
    pub files: Vec<(PathBuf, File)>,
    pub header: GgufHeader,
}

impl GgufFiles {
    /// Opens a GGUF file and, if it has a part of a model alone, those that have the rest; reads what stands before
    /// their data.
    ///
    /// # Errors
    /// [`Error::Read`]; [`Error::BadFile`] for headers that lie, for other files, and for those that are missing or do
    /// not belong together.
    pub fn open(path: &Path) -> Result<Self> {
        let (file, header) = open_one(path)?;
        match number(&header, COUNT, path)?.filter(|count| *count > 1) {
            None => Ok(Self { files: vec![(path.to_owned(), file)], header }),
            Some(count) => Self::open_all(&paths(path, count)?),
        }
    }

    fn open_all(paths: &[PathBuf]) -> Result<Self> {
        let mut joined = Self { files: Vec::new(), header: GgufHeader::default() };
        for path in paths {
            let (file, header) = open_one(path)?;
            joined.add(path, file, header, paths.len())?;
        }
        let first = &paths[0];
        let found = joined.header.tensors.len();
        match number(&joined.header, TENSORS, first)? {
            Some(expected) if expected == found => Ok(joined),
            Some(expected) => Err(Error::bad_file(
                first,
                format!(
                    "{TENSORS}: expected {found}, as many as all {} files have together, found {expected}: the files \
                     are not of one model; download all of them again",
                    paths.len()
                ),
            )),
            None => Err(Error::bad_file(first, format!("has no {TENSORS}, which the first of several files has"))),
        }
    }

    /// Adds the next of `count` files.
    fn add(&mut self, path: &Path, file: File, header: GgufHeader, count: usize) -> Result<()> {
        let this = self.files.len();
        let says = |key: &str| number(&header, key, path);
        if says(COUNT)? != Some(count) || says(NUMBER)? != Some(this) {
            let shown = |found: Option<usize>| found.map_or("nothing".to_owned(), |found| found.to_string());
            return Err(Error::bad_file(
                path,
                format!(
                    "expected the metadata of file {} of {count}, {NUMBER} {this} and {COUNT} {count}, found {} and \
                     {}; give it the name that it had, or download it again",
                    this + 1,
                    shown(says(NUMBER)?),
                    shown(says(COUNT)?)
                ),
            ));
        }
        let other = |what: String| {
            Error::bad_file(path, format!("{what}: the files are not of one model; download all of them again"))
        };
        if let Some((first, _)) = self.files.first() {
            // These each file has for itself.
            let strange = header.metadata.iter().find(|(key, value)| {
                ![NUMBER, "general.alignment"].contains(&key.as_str()) && self.header.metadata.get(*key) != Some(*value)
            });
            if let Some((key, _)) = strange {
                return Err(other(format!("{key} is not as in {}", first.display())));
            }
        } else {
            self.header.metadata = header.metadata;
        }
        for (name, mut entry) in header.tensors {
            entry.file = this;
            match self.header.tensors.entry(name) {
                btree_map::Entry::Vacant(place) => drop(place.insert(entry)),
                btree_map::Entry::Occupied(place) => {
                    let earlier = self.files.get(place.get().file).map_or(path, |(path, _)| path).display();
                    return Err(other(format!("has the tensor {}, and so has {earlier}", place.key())));
                }
            }
        }
        self.files.push((path.to_owned(), file));
        Ok(())
    }
}

/// Where all `count` files of a model are of which one says that it has a part.
fn paths(path: &Path, count: usize) -> Result<Vec<PathBuf>> {
    let Some(named) = GgufSplit::of(path).filter(|named| named.count == count) else {
        return Err(Error::bad_file(
            path,
            format!(
                "is one of {count} files of a model, which are found by how their names end, -00001-of-{count:05}.gguf \
                 to -{count:05}-of-{count:05}.gguf: give it the name that it had"
            ),
        ));
    };
    let paths: Vec<PathBuf> = named.names().map(|name| path.with_file_name(name)).collect();
    let missing: Vec<&PathBuf> = paths.iter().filter(|path| !path.exists()).collect();
    match missing.as_slice() {
        [] => Ok(paths),
        [first, others @ ..] => {
            let more = if others.is_empty() { String::new() } else { format!(", and {} more", others.len()) };
            Err(Error::bad_file(
                first,
                format!("missing{more}: the model is in {count} files, which must lie in one directory; download it"),
            ))
        }
    }
}

fn open_one(path: &Path) -> Result<(File, GgufHeader)> {
    let (file, map) = open(path)?;
    if let Some(found) = diagnose::content(&map).filter(|_| !map.starts_with(b"GGUF")) {
        return Err(Error::bad_file(path, format!("not a GGUF file: it is {found}")));
    }
    let header = GgufHeader::parse(&map, path)?;
    Ok((file, header))
}

/// A number about the files of a model, if it is there.
fn number(header: &GgufHeader, key: &str, path: &Path) -> Result<Option<usize>> {
    let most = if key == TENSORS { i32::MAX as usize } else { MOST_FILES };
    match header.metadata.get(key) {
        None => Ok(None),
        Some(GgufField::Integer(number)) if *number >= 0 && *number <= most as i128 => Ok(Some(*number as usize)),
        Some(other) => Err(Error::bad_file(path, format!("{key}: expected a number up to {most}, found {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::GgufSplit;

    #[test]
    fn names_say_which_file_of_how_many_it_is() {
        let split = GgufSplit::parse("a/b-of-c-00002-of-00010.gguf");
        assert_eq!(split, Some(GgufSplit { stem: "a/b-of-c", number: 2, count: 10 }));
        let names: Vec<String> = split.into_iter().flat_map(GgufSplit::names).collect();
        assert_eq!((names.len(), names[0].as_str()), (10, "a/b-of-c-00001-of-00010.gguf"));
        assert_eq!(names[9], "a/b-of-c-00010-of-00010.gguf");
        for name in [
            "x.gguf",
            "x-1-of-2.gguf",
            "x-00001-of-2.gguf",
            "x-00000-of-00002.gguf",
            "x-00003-of-00002.gguf",
            "x-00001-of-00001.gguf",
            "x-00001-of-65536.gguf",
            "x-00001-of-99999999999999999999.gguf",
            "x-+0001-of-00002.gguf",
            "x-00001-of-00002.safetensors",
            "00001-of-00002.gguf",
        ] {
            assert_eq!(GgufSplit::parse(name), None, "{name}");
        }
    }
}
