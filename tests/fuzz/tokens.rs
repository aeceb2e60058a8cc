//! Files of token ids, and the other forms of texts that are JSON.

use std::fs;

use slicegpt_gpu::{data::read_token_file, progress::Silent};

use super::{
    cases,
    mutate::{Json, bytes, one_of},
};

const ORIGINALS: [&str; 6] = [
    r#"{"input_ids": [[1, 2, 3], [4, 5]]}"#,
    r#"{"input_ids": [[1, 2, 3, 0], [4, 5, 0, 0]], "attention_mask": [[1, 1, 1, 0], [true, true, false, false]],
        "labels": [[1, 2, 3, -100], [4, 5, -100, -100]], "position_ids": [[0, 1, 2, 1], [0, 1, 1, 1]]}"#,
    r#"[{"input_ids": [1, 2, 3], "text": "x"}, {"input_ids": [4, 5], "seed": 1}]"#,
    "{\"input_ids\": [1, 2, 3]}\n{\"input_ids\": [4, 5], \"attention_mask\": null}\n",
    "{\"input_ids\": [1]}\r\n\r\n{\"input_ids\": [4, 5]}\r\n",
    r#"{"input_ids": [[0, 4294967295]], "source": {"a": ["b", 1.5, null]}, "num_tokens": 2}"#,
];

#[test]
fn token_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("tokens.json");
    // Values of several lines stand beside each other.
    let originals: Vec<Json> = ORIGINALS.iter().map(|text| Json::new(*text)).collect();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, ORIGINALS[1].as_bytes()).expect("bytes");
    let gzip = gzip.finish().expect("an archive");
    let zstandard =
        ruzstd::encoding::compress_to_vec(ORIGINALS[1].as_bytes(), ruzstd::encoding::CompressionLevel::Fastest);
    cases(
        "token files",
        3_000,
        |random| {
            let changed = match random.below(8) {
                0 => bytes(&gzip, gzip.len(), random),
                1 => bytes(&zstandard, zstandard.len(), random),
                2 => {
                    let text: Vec<u8> = one_of(&ORIGINALS, random).encode_utf16().flat_map(u16::to_le_bytes).collect();
                    let text = [b"\xff\xfe", &text[..]].concat();
                    bytes(&text, text.len(), random)
                }
                _ => originals[random.below(originals.len() as u32) as usize].changed(random),
            };
            fs::write(&path, &changed).expect("a file");
            changed.len()
        },
        |_| read_token_file(&path, &Silent).map(drop),
    );
}
