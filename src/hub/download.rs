//! Files of a commit into the cache: those that are missing, from where an earlier download stopped.

use std::{
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use ureq::{
    Body,
    http::{Response, StatusCode},
};

use super::{
    cache::{Cache, create_parent},
    client::{Client, Listed, Listing, TRIES},
    select::{Weights, goes_along, named, shards, weights},
    transfer::{Next, Pieces},
};
use crate::{
    checkpoint::sha256,
    error::{Error, Result},
    progress::Progress,
};

/// Downloads what counts of a commit and is not there; returns the model.
///
/// # Errors
/// As [`super::find`].
pub fn snapshot(client: &Client, cache: &Cache, listing: &Listing, progress: &dyn Progress) -> Result<PathBuf> {
    let name = client.name();
    let names: Vec<&str> = listing.siblings.iter().map(|listed| listed.name.as_str()).collect();
    let find = |name: &str| listing.siblings.iter().find(|listed| listed.name == name);
    let bad = |reason: String| Error::bad_file(name.repository().as_ref(), reason);
    let work = Work { client, cache, commit: &listing.sha, progress };
    let read = |listed: &Listed| {
        if !work.is_there(listed) {
            work.fetch(listed)?;
        }
        let path = cache.snapshot(&listing.sha).join(&listed.name);
        fs::read(&path).map_err(Error::read(&path))
    };
    let config = find("config.json").filter(|_| name.file().is_none()).map(read).transpose()?;
    let named = config.as_deref().and_then(named);
    let weights = weights(&names, name.file(), named.as_deref(), name.repository())?;
    // Weights come last: where they are, everything is.
    let mut wanted: Vec<&Listed> = Vec::new();
    if !matches!(weights, Weights::Files(_)) {
        wanted.extend(listing.siblings.iter().filter(|listed| goes_along(&listed.name)));
    }
    match &weights {
        Weights::Files(files) => wanted.extend(files.iter().filter_map(|file| find(file))),
        Weights::Single(file) => wanted.extend(find(file)),
        Weights::Index(index) => {
            let text = find(index).map(read).transpose()?.unwrap_or_default();
            let reason = |reason| bad(format!("its {index} cannot be read: {reason}; ask for another revision"));
            for shard in shards(&text).map_err(reason)? {
                let missing = || bad(format!("its {index} names {shard}, which the repository does not have"));
                wanted.push(find(&shard).ok_or_else(missing)?);
            }
        }
    }
    let missing: Vec<&Listed> = wanted.into_iter().filter(|listed| !work.is_there(listed)).collect();
    if !missing.is_empty() {
        progress.say(&format!("downloading {} files of {}", missing.len(), name.repository()));
        progress.begin("downloading", missing.iter().filter_map(|listed| listed.size).sum());
        missing.into_iter().try_for_each(|listed| work.fetch(listed))?;
    }
    cache.note_commit(name.revision(), &listing.sha)?;
    Ok(cache.model(&listing.sha, name))
}

struct Work<'a> {
    client: &'a Client<'a>,
    cache: &'a Cache,
    commit: &'a str,
    progress: &'a dyn Progress,
}

impl Work<'_> {
    fn is_there(&self, listed: &Listed) -> bool {
        let metadata = fs::metadata(self.cache.snapshot(self.commit).join(&listed.name));
        metadata.is_ok_and(|found| found.is_file() && listed.size.is_none_or(|size| size == found.len()))
    }

    fn bad(&self, listed: &Listed, reason: &str) -> Error {
        Error::bad_file(format!("{}/{}", self.client.name().repository(), listed.name).as_ref(), reason)
    }

    /// Puts a file into the cache and gives it its name there.
    fn fetch(&self, listed: &Listed) -> Result<()> {
        let hash = listed.hash().ok_or_else(|| self.bad(listed, "the Hub does not say its hash"))?;
        let blob = self.cache.blob(hash);
        let whole = || fs::metadata(&blob).is_ok_and(|found| listed.size.is_none_or(|size| size == found.len()));
        if !whole() {
            let _lock = self.cache.lock(hash)?;
            // Another process may have done it meanwhile.
            if !whole() {
                create_parent(&blob)?;
                let partial = self.cache.blob(&format!("{hash}.incomplete"));
                self.download(listed, &partial)?;
                fs::rename(&partial, &blob).map_err(Error::write(&blob))?;
            }
        }
        self.cache.link(self.commit, &listed.name, hash)
    }

    /// Downloads a file, or the rest of it, and holds it against its hash.
    fn download(&self, listed: &Listed, partial: &Path) -> Result<()> {
        let opened = File::options().create(true).truncate(false).read(true).write(true).open(partial);
        let mut file = opened.map_err(Error::write(partial))?;
        let mut have = file.seek(SeekFrom::End(0)).map_err(Error::write(partial))?;
        // More than all of it is something else.
        if listed.size.is_some_and(|size| have > size) {
            have = 0;
        }
        self.progress.advance(have)?;
        let (mut failures, mut why, mut furthest) = (0, String::new(), have);
        // What has no bytes is asked for all the same.
        let mut whole = listed.size.is_some_and(|size| size > 0 && have == size);
        while !whole && failures < TRIES {
            let response = self.client.file(self.commit, &listed.name, have)?;
            match response.status() {
                StatusCode::OK => have = 0,
                StatusCode::PARTIAL_CONTENT if begins(&response).is_none_or(|begins| begins == have) => {}
                // The file became another one, or the server sends another part of it.
                StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PARTIAL_CONTENT if have > 0 => {
                    why = "the server does not send what is asked for".into();
                    have = 0;
                    failures += 1;
                    continue;
                }
                _ => return Err(self.client.refused(&response).into()),
            }
            file.set_len(have).and_then(|()| file.seek(SeekFrom::Start(have))).map_err(Error::write(partial))?;
            let pieces = Pieces::of(response.into_body().into_reader(), self.client.stall());
            let ended = self.copy(&pieces, listed.size, &mut file, partial, &mut have)?;
            if let Some(size) = listed.size.filter(|size| *size < have) {
                return Err(self.bad(listed, &format!("more came than the {size} bytes that the Hub says; try again")));
            }
            whole = ended.is_ok() && listed.size.is_none_or(|size| have == size);
            if !whole {
                why = ended.err().unwrap_or_else(|| "the connection ended".into());
                // As long as it gets further each time, it comes to an end.
                failures = if have > furthest { 0 } else { failures + 1 };
                furthest = furthest.max(have);
                self.client.wait(failures, None);
            }
        }
        if let Some(size) = listed.size.filter(|size| *size != have) {
            let reason = format!("{have} bytes came of {size}: {why}; the same command continues from there");
            return Err(self.bad(listed, &reason));
        }
        file.sync_all().map_err(Error::write(partial))?;
        if let Some(expected) = listed.sha256() {
            let found = sha256(&mut file).map_err(Error::read(partial))?;
            if found != expected {
                fs::remove_file(partial).map_err(Error::write(partial))?;
                return Err(self.bad(listed, "what came has another sha256 than the Hub says; try again"));
            }
        }
        Ok(())
    }

    /// Appends what comes, as far as the first piece beyond `most`; the inner result is why it ended before its end.
    fn copy(
        &self,
        pieces: &Pieces,
        most: Option<u64>,
        file: &mut File,
        partial: &Path,
        have: &mut u64,
    ) -> Result<std::result::Result<(), String>> {
        while most.is_none_or(|most| *have <= most) {
            match pieces.next(|| self.progress.advance(0))? {
                Next::End => break,
                Next::Piece(piece) => {
                    file.write_all(&piece).map_err(Error::write(partial))?;
                    *have += piece.len() as u64;
                    self.progress.advance(piece.len() as u64)?;
                }
                Next::Broken(reason) => return Ok(Err(reason)),
            }
        }
        Ok(Ok(()))
    }
}

/// The first byte of a file that a part of it begins with.
fn begins(response: &Response<Body>) -> Option<u64> {
    let range = response.headers().get("content-range")?.to_str().ok()?;
    range.trim().strip_prefix("bytes")?.trim_start().split_once('-')?.0.parse().ok()
}
