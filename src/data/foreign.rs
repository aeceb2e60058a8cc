//! Files that are no text, known by their first bytes, and what to do about each.

use std::path::Path;

const TABLE: &str = "write its rows as JSON lines, for example with pandas: \
     read_parquet(FILE).to_json(\"FILE.jsonl\", orient=\"records\", lines=True)";
const ARROW: &str =
    "write its rows as JSON lines, for example with datasets: Dataset.from_file(FILE).to_json(\"FILE.jsonl\")";
const DOCUMENT: &str = "save it as plain text";
const UNPACK: &str = "unpack it, or compress it with gzip or zstd";
const WEIGHTS: &str = "give a file of text or token ids";

/// First bytes, what has them, what to do.
const MAGIC: &[(&[u8], &str, &str)] = &[
    (b"PAR1", "a Parquet file", TABLE),
    (b"ARROW1\0\0", "an Arrow file", ARROW),
    (b"\xff\xff\xff\xff", "an Arrow stream", ARROW),
    (b"FEA1", "a Feather file", ARROW),
    (b"Obj\x01", "an Avro file", TABLE),
    (b"SQLite format 3\0", "an SQLite database", "write its rows as JSON lines"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "write its texts as JSON lines"),
    (b"\x93NUMPY", "a NumPy array", "write token ids as {\"input_ids\": [[...], ...]}"),
    (
        b"PK\x03\x04",
        "a ZIP archive (as .docx, .xlsx, .epub and .npz are)",
        "unpack it, or save the document as plain text",
    ),
    (b"%PDF-", "a PDF document", DOCUMENT),
    (b"{\\rtf", "an RTF document", DOCUMENT),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Microsoft Office document", DOCUMENT),
    (b"\xfd7zXZ\0", "an xz archive", UNPACK),
    (b"\x04\x22\x4d\x18", "an LZ4 archive", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (b"Rar!\x1a\x07", "a RAR archive", UNPACK),
    (b"\x1f\x8b", "compressed twice", "decompress it once"),
    (b"\x28\xb5\x2f\xfd", "compressed twice", "decompress it once"),
    (b"GGUF\x02\0\0\0", "a GGUF model", WEIGHTS),
    (b"GGUF\x03\0\0\0", "a GGUF model", WEIGHTS),
    (b"\x80\x02", "a Python pickle", WEIGHTS),
    (b"\x80\x03", "a Python pickle", WEIGHTS),
    (b"\x80\x04", "a Python pickle", WEIGHTS),
    (b"\x80\x05", "a Python pickle", WEIGHTS),
    (
        b"version https://git-lfs.github.com/spec/",
        "a Git LFS pointer, not the file it stands for",
        "fetch that with git lfs pull",
    ),
];

/// Why a file that begins with these bytes (decompressed) is not taken for text, if it is not.
pub fn recognise(bytes: &[u8], path: &Path) -> Option<String> {
    let found = MAGIC.iter().find(|(magic, ..)| bytes.starts_with(magic)).map(|&(_, what, way)| (what, way));
    let found = found.or_else(|| {
        (bytes.starts_with(b"BZh") && bytes.get(4..10) == Some(b"1AY&SY")).then_some(("a bzip2 archive", UNPACK))
    });
    let found = found.or_else(|| {
        (bytes.get(257..262) == Some(b"ustar")).then_some(("a tar archive", "unpack it and give a file from it"))
    });
    // The length of a header, and the header.
    let found = found.or_else(|| {
        (bytes.get(8..10) == Some(b"{\"") && bytes[6..8] == [0, 0]).then_some(("a safetensors file", WEIGHTS))
    });
    let found = found.or_else(|| {
        web_page(bytes, path).then_some(("a web page", "fetch the file itself; of a page that is meant, save the text"))
    });
    let found = found.or_else(|| {
        table(path).then_some((
            "a table",
            "write the column of texts as JSON lines, or name the file .txt to use it as it stands",
        ))
    });
    found.map(|(what, way)| format!("{what}, not text; {way}"))
}

fn web_page(bytes: &[u8], path: &Path) -> bool {
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(256)])
        .trim_start_matches('\u{feff}')
        .trim_start()
        .to_ascii_lowercase();
    (start.starts_with("<!doctype html") || start.starts_with("<html")) && !named(path, &["html", "htm"])
}

fn table(path: &Path) -> bool {
    named(path, &["csv", "tsv"])
}

/// Whether a file's name, less that of its compression, ends in one of these, in whatever case.
pub fn named(path: &Path, extensions: &[&str]) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let name = [".gz", ".gzip", ".zst", ".zstd"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
    name.rsplit_once('.').is_some_and(|(_, found)| extensions.contains(&found))
}
