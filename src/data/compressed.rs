//! Compressed files, known by their first bytes: gzip and Zstandard, of any number of members or frames.

use std::io::{self, Read};

use flate2::bufread::GzDecoder;
use ruzstd::decoding::{
    StreamingDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};

/// A kind of compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    Gzip,
    Zstandard,
}

impl Compression {
    /// What a file is compressed with, if it is.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstandard),
            // A frame to be skipped: what some writers begin a seekable archive with.
            [first, 0x2a, 0x4d, 0x18, ..] if first & 0xf0 == 0x50 => Some(Self::Zstandard),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstandard => "Zstandard",
        }
    }

    /// Decompresses up to `limit` bytes.
    ///
    /// # Errors
    /// The reason: damaged, cut short, or more than `limit` bytes.
    pub fn decompress(self, bytes: &[u8], limit: usize) -> Result<Vec<u8>, String> {
        let mut text = Vec::new();
        match self {
            Self::Gzip => gzip(bytes, limit, &mut text),
            Self::Zstandard => zstandard(bytes, limit, &mut text),
        }
        .map_err(|error| {
            let cut = error.kind() == io::ErrorKind::UnexpectedEof;
            let what = if cut { "cut short: it ends in the middle".into() } else { format!("damaged: {error}") };
            format!("a {} archive that is {what}; fetch it again", self.name())
        })?;
        if text.len() > limit {
            return Err(format!(
                "a {} archive of more than {limit} bytes of text, more than is read at once; give a part of it",
                self.name()
            ));
        }
        Ok(text)
    }
}

/// Decodes one member after the other until there is more than `limit`; zeros after one are padding, as gzip has it.
fn gzip(mut rest: &[u8], limit: usize, text: &mut Vec<u8>) -> io::Result<()> {
    while !rest.is_empty() && text.len() <= limit {
        let mut decoder = GzDecoder::new(rest);
        (&mut decoder).take((limit + 1 - text.len()) as u64).read_to_end(text)?;
        rest = decoder.into_inner();
        rest = &rest[rest.iter().take_while(|&&byte| byte == 0).count()..];
    }
    Ok(())
}

/// Decodes one frame after the other until there is more than `limit`.
fn zstandard(mut rest: &[u8], limit: usize, text: &mut Vec<u8>) -> io::Result<()> {
    while !rest.is_empty() && text.len() <= limit {
        let mut decoder = match StreamingDecoder::new(&mut rest) {
            Ok(decoder) => decoder,
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                rest = rest.get(length as usize..).ok_or(io::ErrorKind::UnexpectedEof)?;
                continue;
            }
            Err(error) => return Err(cut_or(rest, io::Error::other(error))),
        };
        let read = (&mut decoder).take((limit + 1 - text.len()) as u64).read_to_end(text);
        read.map_err(|error| cut_or(decoder.get_ref(), error))?;
        let decoder = &decoder.decoder;
        if text.len() <= limit
            && decoder.get_checksum_from_data().is_some_and(|sum| decoder.get_calculated_checksum() != Some(sum))
        {
            return Err(io::Error::other("its checksum is that of another text"));
        }
    }
    Ok(())
}

/// What is wrong where decoding fails: nothing but the end, if nothing is left.
fn cut_or(rest: &[u8], error: io::Error) -> io::Error {
    if rest.is_empty() { io::ErrorKind::UnexpectedEof.into() } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_unpacks_to_more_than_the_limit_is_refused_before_it_is_unpacked() -> io::Result<()> {
        let zeros = vec![0u8; 1 << 20];
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        io::Write::write_all(&mut gzip, &zeros)?;
        let zstandard = ruzstd::encoding::compress_to_vec(&*zeros, ruzstd::encoding::CompressionLevel::Fastest);
        for (kind, bytes) in [(Compression::Gzip, gzip.finish()?), (Compression::Zstandard, zstandard)] {
            assert_eq!(Compression::of(&bytes), Some(kind));
            assert_eq!(kind.decompress(&bytes, 1 << 20).as_ref(), Ok(&zeros), "at the limit");
            let refused = kind.decompress(&bytes, (1 << 20) - 1);
            assert!(
                refused.as_ref().is_err_and(|reason| reason.contains("more than 1048575 bytes")),
                "{:?}",
                refused.map(|text| text.len())
            );
        }
        Ok(())
    }
}
