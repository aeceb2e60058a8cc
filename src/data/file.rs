//! A file of text on disk → its characters.

use std::{fs, fs::File, io::Read, path::Path};

use super::{compressed::Compression, foreign};
use crate::error::{Error, Result};

/// Reads no more than this of an archive or a pipe, whose length is not known before.
const LIMIT: usize = 2 << 30;

/// Reads a file of text: decompressed, UTF-8 or UTF-16 with a byte-order mark, which is dropped; CRLF becomes LF.
///
/// # Errors
/// [`Error::Read`]; [`Error::BadFile`] that says what the file is, if not text.
pub fn read_text(path: &Path) -> Result<String> {
    let bad = |reason: String| Error::bad_file(path, reason);
    let mut bytes = read_bytes(path)?;
    if let Some(compression) = Compression::of(&bytes) {
        bytes = compression.decompress(&bytes, LIMIT).map_err(bad)?;
    }
    if let Some(reason) = foreign::recognise(&bytes, path) {
        return Err(bad(reason));
    }
    let text = decode(bytes).map_err(bad)?;
    Ok(if text.contains("\r\n") { text.replace("\r\n", "\n") } else { text })
}

fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    let metadata = fs::metadata(path).map_err(Error::read(path))?;
    if metadata.is_dir() {
        return Err(Error::bad_file(path, "a directory; expected a file of text, JSON or JSON lines, or token ids"));
    }
    if metadata.is_file() {
        return fs::read(path).map_err(Error::read(path));
    }
    #[cfg(unix)]
    if std::os::unix::fs::FileTypeExt::is_char_device(&metadata.file_type()) {
        return Err(Error::bad_file(path, "a device, which may have no end; give a file or a pipe"));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(LIMIT as u64 + 1).read_to_end(&mut bytes)).map_err(Error::read(path))?;
    if bytes.len() > LIMIT {
        return Err(Error::bad_file(
            path,
            format!("gives more than {LIMIT} bytes, more than is read at once; give a file, or less"),
        ));
    }
    Ok(bytes)
}

/// The characters of a text.
fn decode(bytes: Vec<u8>) -> std::result::Result<String, String> {
    match *bytes {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => {
            Err("UTF-32 text; convert it to UTF-8, for example with iconv -f UTF-32 -t UTF-8".into())
        }
        [0xff, 0xfe, ref text @ ..] => utf16(text, u16::from_le_bytes),
        [0xfe, 0xff, ref text @ ..] => utf16(text, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, ref text @ ..] => utf8(text.to_vec(), 3),
        _ => {
            let zeros = bytes.iter().filter(|&&byte| byte == 0).count();
            // Latin text has half of its bytes zero, that of other alphabets those of spaces and line ends.
            if 50 * zeros > bytes.len() {
                return Err("not text, or UTF-16 without a byte-order mark; convert it to UTF-8, for example with \
                     iconv -f UTF-16LE -t UTF-8"
                    .into());
            }
            utf8(bytes, 0)
        }
    }
}

fn utf8(bytes: Vec<u8>, before: usize) -> std::result::Result<String, String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count() + 1;
        if error.utf8_error().error_len().is_none() {
            return format!("not UTF-8 text: it ends in the middle of a character, at byte {}", at + before);
        }
        format!(
            "not UTF-8 text: byte {:#04x} at {} (line {line}); if it is Windows-1252 or Latin-1, convert it with \
             iconv -f WINDOWS-1252 -t UTF-8",
            error.as_bytes()[at],
            at + before
        )
    })
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> std::result::Result<String, String> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    if !rest.is_empty() {
        return Err("UTF-16 text that ends in the middle of a character".into());
    }
    let mut at = 2;
    char::decode_utf16(pairs.iter().map(|&pair| unit(pair)))
        .map(|char| match char {
            Ok(char) => {
                at += 2 * char.len_utf16();
                Ok(char)
            }
            Err(half) => Err(format!(
                "UTF-16 text with half of a surrogate pair ({:#06x}) at byte {at}",
                half.unpaired_surrogate()
            )),
        })
        .collect()
}
