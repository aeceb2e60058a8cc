//! Are GGUF files that lie refused, with a reason and exit code 3, before anything is allocated for what they say?

use std::path::Path;

use slicegpt_gpu::checkpoint::GgufHeader;

/// A file by its pieces: magic, version, counts, then whatever is added.
struct Bytes(Vec<u8>);

impl Bytes {
    fn new(tensors: u64, keys: u64) -> Self {
        Self(b"GGUF".to_vec()).u32(3).u64(tensors).u64(keys)
    }

    fn u32(mut self, number: u32) -> Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    fn u64(mut self, number: u64) -> Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    fn text(self, text: &str) -> Self {
        let mut this = self.u64(text.len() as u64);
        this.0.extend(text.as_bytes());
        this
    }

    fn zeros(mut self, count: usize) -> Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    /// A tensor of f32 of so many values from here on.
    fn tensor(self, name: &str, dimensions: &[u64], kind: u32, offset: u64) -> Self {
        let this = self.text(name).u32(dimensions.len() as u32);
        dimensions.iter().fold(this, |this, &size| this.u64(size)).u32(kind).u64(offset)
    }
}

#[test]
fn headers_that_lie_are_refused_with_the_reason() {
    let key = |keys: u64| Bytes::new(0, keys);
    let list = |kind: u32, count: u64| key(1).text("k").u32(9).u32(kind).u64(count);
    let tensor = |dimensions: &[u64], kind, offset| Bytes::new(1, 0).tensor("t", dimensions, kind, offset).zeros(256);
    // Bytes of the file, and a part of the reason.
    let cases: Vec<(Bytes, &str)> = vec![
        (Bytes(b"GGUF".to_vec()), "ends within the version"),
        (Bytes(b"GGML".to_vec()).zeros(100), "does not begin with GGUF"),
        (Bytes(b"GGUF".to_vec()).u32(1).zeros(100), "version 1"),
        (Bytes(b"GGUF".to_vec()).u32(3 << 24).zeros(100), "big-endian"),
        (Bytes::new(u64::MAX, 0), "absurd"),
        (Bytes::new(1 << 20, 0), "ends within the name of a tensor"),
        (Bytes::new(0, u64::MAX), "absurd"),
        (key(1).u64(u64::MAX), "ends within the key"),
        (key(1).u64(1 << 40).zeros(64), "ends within the key"),
        (key(1).u64(0), "0 bytes"),
        (key(1).u64(1000).zeros(1000), "1000 bytes"),
        (key(1).text("k").u32(8).u64(u64::MAX - 4), "ends within k"),
        (key(1).text("k").u32(13).u64(0), "type 13"),
        (key(1).text("k").u32(u32::MAX).u64(0), "type 4294967295"),
        (key(1).text("k").u32(7).u32(2), "where 0 or 1 are expected"),
        (key(2).text("k").u32(4).u32(1).text("k").u32(4).u32(1), "twice"),
        // Arrays of arrays are how a small file asks for a deep stack, or for a lot of memory.
        (list(9, 1).u32(9).u64(1).u32(9).u64(1), "list of lists"),
        (list(4, u64::MAX), "absurd"),
        (list(4, 1 << 24), "more than the file has bytes for"),
        (list(8, 1 << 24).zeros(64), "more than the file has bytes for"),
        (list(8, 2).u64(1 << 62), "more than the file has bytes for"),
        (list(8, 1).u64(1 << 62), "ends within k"),
        (list(77, 1).zeros(64), "elements of type 77"),
        (list(10, 1).u64(u64::MAX), "too large"),
        (tensor(&[], 0, 0), "0 dimensions"),
        (Bytes::new(1, 0).text("t").u32(u32::MAX), "4294967295 dimensions"),
        (tensor(&[0], 0, 0), "a dimension of 0"),
        (tensor(&[u64::MAX, 2], 0, 0), "a dimension of"),
        // Products that come out small, or right, where they overflow.
        (tensor(&[1 << 32, 1 << 32], 0, 0), "absurd dimensions"),
        (tensor(&[1 << 33, 1 << 31], 0, 0), "absurd dimensions"),
        (tensor(&[1 << 62], 0, 0), "absurd dimensions"),
        (tensor(&[1 << 40], 0, 0), "beyond the end"),
        (tensor(&[31], 8, 0), "no multiple of the 32"),
        (tensor(&[8], 36, 0), "type 36"),
        (tensor(&[8], u32::MAX, 0), "type 4294967295"),
        (tensor(&[8], 0, 4), "no multiple of 32"),
        (tensor(&[8], 0, u64::MAX - 31), "beyond the end"),
        (tensor(&[8], 0, 1 << 40), "beyond the end"),
        (Bytes::new(2, 0).tensor("t", &[8], 0, 0).tensor("t", &[8], 0, 32).zeros(256), "twice"),
        (Bytes::new(2, 0).tensor("t", &[16], 0, 0).tensor("u", &[8], 0, 32).zeros(256), "share bytes"),
        (key(1).text("general.alignment").u32(4).u32(0), "general.alignment"),
        (key(1).text("general.alignment").u32(4).u32(3), "power of two"),
        (key(1).text("general.alignment").u32(4).u32(u32::MAX), "general.alignment"),
        (key(1).text("general.alignment").u32(8).text("x"), "general.alignment"),
    ];
    for (bytes, reason) in cases {
        let error = GgufHeader::parse(&bytes.0, Path::new("x.gguf")).expect_err(reason);
        assert_eq!(error.exit_code(), 3, "{error}");
        assert!(error.to_string().contains(reason), "{reason}: {error}");
        assert!(error.to_string().starts_with("x.gguf: not a valid GGUF file: "), "{error}");
    }
    let invalid = Bytes(key(1).u64(2).0.into_iter().chain([0xff, 0xfe]).collect()).u32(4).u32(1);
    let error = GgufHeader::parse(&invalid.0, Path::new("x.gguf")).expect_err("no text");
    assert!(error.to_string().contains("UTF-8"), "{error}");
}
