//! Is each file of text read for what it is, and what is no text refused by its name?

#[path = "../support/mod.rs"]
mod support;
mod tokens;

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::Mutex,
};

use serde_json::{Value, json};
use slicegpt_gpu::{
    Error,
    data::{SERIALIZED_CLASS, TokenizerFiles, Tokens, read_token_file},
    progress::{Progress, Silent},
};
use support::fixture;
use tempfile::TempDir;

/// A directory with a tokenizer of bytes, and files.
struct Scene(TempDir);

impl Scene {
    fn new() -> Self {
        let directory = TempDir::new().expect("a directory");
        fs::copy(fixture("chat/tokenizer.json"), directory.path().join("tokenizer.json")).expect("a copy");
        Self(directory)
    }

    fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).expect("a file");
        path
    }

    /// What is read of a file, in full.
    fn text(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.put(name, bytes);
        let tokens = read(&path, &Silent).unwrap_or_else(|error| panic!("{name}: {error}"));
        let Tokens::Text(text) = tokens else { panic!("{name} is taken for token ids") };
        let files = TokenizerFiles::read(self.0.path()).expect("files");
        let tokenizer = files.build(SERIALIZED_CLASS).expect("a tokenizer").tokenizer;
        let ids = text.windows(&tokenizer, 1).expect("tokens").concat();
        tokenizer.decode(&ids, true).expect("a text")
    }

    /// Why a file is not read.
    fn refusal(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        let path = self.put(name, bytes);
        self.refusal_of(&path)
    }

    fn refusal_of(&self, path: &Path) -> String {
        match read(path, &Silent) {
            Err(error @ Error::BadFile { .. }) => error.to_string(),
            Err(other) => panic!("{}: {other:?}", path.display()),
            Ok(_) => panic!("{} is read", path.display()),
        }
    }

    fn rows(&self, name: &str, text: &str) -> Result<Vec<Vec<u32>>, String> {
        read_token_file(&self.put(name, text), &Silent).map_err(|error| error.to_string())
    }
}

fn read(path: &Path, progress: &dyn Progress) -> Result<Tokens, Error> {
    Tokens::read(path, &|| panic!("there are no conversations here"), progress)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

fn zstandard(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

fn utf16(text: &str, unit: fn(u16) -> [u8; 2]) -> Vec<u8> {
    "\u{feff}".encode_utf16().chain(text.encode_utf16()).flat_map(unit).collect()
}

#[test]
fn every_form_of_rows_is_the_text_that_it_holds() {
    let scene = Scene::new();
    let both = "one line\nand another\n\n“zwei” 😀";
    let (first, second) = both.split_once("\n\n").expect("two");
    let below = "Below is an instruction that describes a task";
    let request = "Write a response that appropriately completes the request.";
    let with_input = format!(
        "{below}, paired with an input that provides further context. {request}\n\n### Instruction:\nAdd.\n\n### \
         Input:\n1, 2\n\n### Response:\n3"
    );
    let without = format!("{below}. {request}\n\n### Instruction:\nWait.\n\n### Response:\n...");
    let lines = |rows: &[Value]| rows.iter().map(|row| row.to_string() + "\n").collect::<String>();
    let metadata =
        json!({ "text": second, "url": "http://x", "timestamp": "2020", "meta": { "a": [1, null] }, "label": 1 });
    let alpaca = [
        json!({ "instruction": "Add.", "input": "1, 2", "output": "3" }),
        json!({ "instruction": "Wait.", "input": "", "output": "..." }),
        json!({ "instruction": "Wait.", "output": "..." }),
        json!({ "instruction": "Wait.", "input": null, "output": "...", "system": "" }),
    ];
    for (rows, expected) in [
        (vec![json!(first), json!(second)], both.to_owned()),
        (vec![json!(first), json!({ "text": second })], both.to_owned()),
        (vec![json!({ "text": first }), metadata], both.to_owned()),
        (vec![json!({ "content": first, "id": 1 }), json!({ "content": second })], both.to_owned()),
        (
            vec![
                json!({ "prompt": "one line\n", "completion": "and another" }),
                json!({ "prompt": second, "completion": "" }),
            ],
            both.to_owned(),
        ),
        (alpaca.to_vec(), [&*with_input, &without, &without, &without].join("\n\n")),
        (
            vec![json!({ "text": first }), json!({ "text": "" }), json!({ "text": second })],
            format!("{first}\n\n\n\n{second}"),
        ),
        (vec![json!({ "text": first, "content": null })], first.to_owned()),
    ] {
        let by_line = lines(&rows);
        let pretty = serde_json::to_string_pretty(&rows).expect("JSON");
        for name in ["rows.jsonl", "rows.ndjson", "rows.jsonlines", "ROWS.JSONL", "rows.json", "rows.txt", "rows"] {
            assert_eq!(scene.text(name, &by_line), expected, "{name}: {by_line}");
        }
        assert_eq!(scene.text("rows.jsonl", by_line.trim_end()), expected, "no last line end");
        assert_eq!(
            scene.text("rows.jsonl", by_line.replace('\n', "\r\n\r\n")),
            expected,
            "line ends of Windows, and blank lines"
        );
        assert_eq!(scene.text("rows.jsonl", format!("\u{feff}{by_line}")), expected, "a byte-order mark");
        assert_eq!(scene.text("rows.jsonl.gz", gzip(by_line.as_bytes())), expected, "gzip");
        assert_eq!(scene.text("rows.json.zst", zstandard(by_line.as_bytes())), expected, "Zstandard");
        for name in ["array.json", "array.JSON", "array.txt", "array"] {
            assert_eq!(scene.text(name, &pretty), expected, "{name}: {pretty}");
            assert_eq!(scene.text(name, json!(rows).to_string()), expected, "{name}, on one line");
        }
    }
    assert_eq!(scene.text("one.json", "{\n \"text\": \"alone\"\n}"), "alone");
    assert_eq!(scene.text("one.json", "\"alone\""), "alone");
}

#[test]
fn what_only_begins_like_json_is_text() {
    let scene = Scene::new();
    for text in [
        "[1] A list of references.\n[2] Another.",
        "{braces} at the beginning",
        "[Music]",
        "\"Hello,\" he said.\n\"Hello,\" said she.",
        "\"Hello.\"",
        "{\"a\": 1} is an object.",
        "{\"a\": 1}\nis an object, and so is\n{\"b\": 2}\nand this is none",
        "12\n13\n14",
        "null",
        "true\nfalse",
    ] {
        assert_eq!(scene.text("text.txt", text), text);
        assert_eq!(scene.text("text", text), text);
    }
}

#[test]
fn what_is_meant_as_json_is_never_text_whatever_the_file_is_called() {
    let (scene, row) = (Scene::new(), "{\"text\": \"one\"}");
    for (text, reason) in [
        (format!("[{row}, {row},]"), "looks like JSON and is none: line 1"),
        (format!("{{\"text\": \"one\n{row}\n{row}\n{row}"), "line 1 is no JSON"),
        (format!("one\"}}\n{row}\n{row}\n{row}"), "line 1 is no JSON"),
        (format!("{row},\n{row}"), "line 1 is no JSON"),
        (format!("// a comment\n{row}"), "line 1 is a comment, which JSON has none of"),
        (format!("# a comment\n{row}\n{row}"), "line 1 is"),
        (format!("# a comment\n[{row},\n{row}]"), "line 1 is a comment"),
        ("{\"text\": \"one\",}".into(), "looks like JSON and is none"),
        ("{text: \"one\"}".into(), "looks like JSON and is none"),
        ("[{'text': 'one'}]".into(), "looks like JSON and is none"),
        ("['one', 'two']".into(), "looks like JSON and is none"),
        ("[\"one\"]\n[\"two\"]\n[\"thr".into(), "line 1: "),
    ] {
        for name in ["text.txt", "text"] {
            let error = scene.refusal(name, &text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
    // A separator before each value, as RFC 7464 has it.
    assert_eq!(scene.text("text.txt", format!("\u{1e}{row}\n\u{1e}{row}\n")), "one\n\none");
    for text in ["# A title\n[a link] and text", "// said he\nand went", "[a: b] is no list]", "{what: ever} he said"] {
        assert_eq!(scene.text("text.txt", text), text);
    }
}

#[test]
fn rows_that_are_not_known_are_refused_with_line_and_keys() {
    let scene = Scene::new();
    let good = "{\"text\": \"fine\"}\n\n";
    for (line, reason) in [
        (
            "{\"body\": \"x\", \"n\": {\"text\": \"y\"}}",
            "expected a JSON string or an object with \"text\", \"content\", \"messages\"",
        ),
        ("{\"body\": \"x\", \"n\": {\"text\": \"y\"}}", "found an object with \"body\", \"n\""),
        ("{}", "found an object with nothing in it"),
        ("5", "found 5"),
        ("null", "found null"),
        ("[1, 2]", "found an array of numbers"),
        ("[\"a\"]", "found an array"),
        ("{\"text\": 5}", "\"text\" is 5, expected a string"),
        ("{\"text\": [\"a\"]}", "\"text\" is an array, expected a string"),
        ("{\"text\": null}", "found \"text\" that is null"),
        ("{\"text\": \"a\", \"text\": \"b\"}", "the key \"text\" is there twice"),
        ("{\"text\": \"\\ud800\"}", "half of a surrogate pair"),
        ("{\"text\": \"a\"", "EOF"),
        ("{\"text\": NaN}", "\"text\" is NaN, expected a string"),
        ("{\"text\": -1e400}", "\"text\" is -Infinity, expected a string"),
        ("{'text': 'a'}", "key must be a string"),
        ("{\"text\": \"a\"} {\"text\": \"b\"}", "trailing characters"),
        ("{\"content\": \"a\"}", "a row with \"content\" where the first (line 1) has \"text\""),
        ("{\"input_ids\": [1]}", "a row with \"input_ids\" where the first (line 1) has \"text\""),
        (
            "{\"text\": \"a\", \"loss_mask\": [0]}",
            "the field \"loss_mask\" is not read and may change what the row means",
        ),
        ("plain", "expected value"),
    ] {
        let error = scene.refusal("rows.jsonl", format!("{good}{line}\n"));
        assert!(error.contains("rows.jsonl: line 3") && error.contains(reason), "{line}: {error}");
        if line.starts_with('{') {
            assert!(scene.refusal("rows.txt", format!("{good}{line}\n")).contains(reason), "{line} is taken for text");
        }
    }
    // What is wrong with the first line is said of it, too, and not of the file.
    for (line, reason) in [
        ("{\"text\": \"a\", \"text\": \"b\"}", "line 1 is no JSON: column 26: the key \"text\" is there twice"),
        ("{\"text\": \"\\ud800\"}", "half of a surrogate pair"),
        ("{'text': 'a'}", "line 1 is no JSON: column 2: key must be a string"),
    ] {
        let error = scene.refusal("rows.jsonl", format!("{line}\n{good}"));
        assert!(error.contains("line 1") && error.contains(reason), "{line}: {error}");
    }
    for (text, reason) in [
        ("[{\"text\": \"a\"}, {\"body\": 1}]", "element 1 of the array: expected a JSON string or an object with"),
        ("{\"data\": [{\"text\": \"a\"}]}", "found an object with \"data\""),
        ("{\"instruction\": \"a\"}", "found an object with \"instruction\""),
        ("{\"instruction\": \"a\", \"output\": \"b\", \"history\": [[\"c\", \"d\"]]}", "\"history\" is not read"),
        ("{\"instruction\": \"a\", \"output\": \"b\", \"input\": 1}", "\"input\" is 1, expected a string"),
        ("{\"text\": \"a", "looks like JSON and is none: line 1, column 11"),
        ("[\n\"a\",\n\"b\"", "looks like JSON and is none: line 3"),
        (
            "{\n \"text\": \"a\"\n}\n{\n \"text\": \"b\"\n}\n",
            "several JSON objects over several lines each; write one a line",
        ),
    ] {
        for name in ["rows.json", "rows.txt", "rows"] {
            let error = scene.refusal(name, text);
            assert!(error.contains(reason), "{name}: {text}: {error}");
        }
    }
    assert!(
        scene
            .refusal("rows.json", "just words")
            .contains("looks like JSON and is none: line 1, column 1: expected value")
    );
    assert!(scene.refusal("rows.jsonl", "\n").contains("holds no text"));
    assert!(scene.refusal("rows.jsonl", "\"\"\n\" \"").contains("holds no text"));
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    assert!(scene.refusal("rows.json", &deep).contains("recursion limit"));
}

/// Keeps what is said.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Progress for Notes {
    fn begin(&self, _: &'static str, _: u64) {}

    fn advance(&self, _: u64) -> Result<(), Error> {
        Ok(())
    }

    fn note(&self, message: &str) {
        self.0.lock().expect("a lock").push(message.to_owned());
    }
}

#[test]
fn of_several_forms_in_a_row_the_one_that_counts_is_told() {
    let scene = Scene::new();
    let rows = "{\"content\": \"b\", \"text\": \"a\"}\n{\"text\": \"a\", \"instruction\": \"x\", \"output\": \"y\"}";
    assert_eq!(scene.text("rows.jsonl", rows), "a\n\na");
    let notes = Notes::default();
    assert!(read(&scene.put("rows.jsonl", rows), &notes).is_ok());
    let notes = notes.0.into_inner().expect("notes");
    assert!(
        notes.len() == 1 && notes[0].contains("rows have both \"text\" and \"content\"; \"text\" counts"),
        "{notes:?}"
    );
}

#[test]
fn texts_of_every_encoding_are_the_same_text_or_refused_by_name() {
    let scene = Scene::new();
    let text = "“Zürich” 😀\nline";
    let windows = text.replace('\n', "\r\n");
    for bytes in [
        text.as_bytes().to_vec(),
        windows.clone().into_bytes(),
        format!("\u{feff}{text}").into_bytes(),
        utf16(text, u16::to_le_bytes),
        utf16(&windows, u16::to_be_bytes),
        gzip(text.as_bytes()),
        gzip(&utf16(&windows, u16::to_le_bytes)),
    ] {
        for name in ["text.txt", "TEXT.TXT", "text.txt.gz", "text.md", "text"] {
            assert_eq!(scene.text(name, &bytes), text, "{name}");
        }
    }
    assert_eq!(scene.text("text.txt", "a lone \r stays\r\n"), "a lone \r stays\n");
    let half = [utf16("a", u16::to_le_bytes), vec![0x00, 0xd8, b'b', 0]].concat();
    let bare: Vec<u8> = "no mark".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for (bytes, reason) in [
        (
            b"caf\xe9 au lait".to_vec(),
            "not UTF-8 text: byte 0xe9 at 3 (line 1); if it is Windows-1252 or Latin-1, convert it with iconv",
        ),
        (b"\xef\xbb\xbfa\nb\xff".to_vec(), "byte 0xff at 6 (line 2)"),
        (b"cut \xe2\x80".to_vec(), "it ends in the middle of a character, at byte 4"),
        (half, "UTF-16 text with half of a surrogate pair (0xd800) at byte 4"),
        (utf16("odd", u16::to_le_bytes)[..7].to_vec(), "UTF-16 text that ends in the middle of a character"),
        (bare, "UTF-16 without a byte-order mark"),
        (b"\xff\xfe\0\0a\0\0\0".to_vec(), "UTF-32 text"),
    ] {
        let error = scene.refusal("text.txt", bytes);
        assert!(error.contains(reason), "expected {reason:?}: {error}");
    }
}

#[test]
fn archives_of_any_number_of_members_are_read_and_broken_ones_refused() {
    let scene = Scene::new();
    let (first, second) = ("one two three ".repeat(100), "four\n".repeat(1000));
    let text = format!("{first}{second}");
    let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstandard(text.as_bytes())].concat();
    for (name, bytes) in [
        ("text.gz", [gzip(first.as_bytes()), gzip(second.as_bytes())].concat()),
        ("text.zst", [zstandard(first.as_bytes()), zstandard(second.as_bytes())].concat()),
        ("text.zst", skipped),
        ("misnamed.txt", gzip(text.as_bytes())),
        ("unpacked.txt.gz", text.clone().into_bytes()),
    ] {
        assert_eq!(scene.text(name, bytes), text, "{name}");
    }
    for (kind, whole) in [("gzip", gzip(text.as_bytes())), ("Zstandard", zstandard(text.as_bytes()))] {
        for length in [whole.len() / 2, whole.len() - 1] {
            let error = scene.refusal("cut", &whole[..length]);
            assert!(error.contains(&format!("a {kind} archive that is cut short")), "{error}");
        }
        let mut damaged = whole.clone();
        let end = damaged.len() - 5;
        damaged[end - 8..end].iter_mut().for_each(|byte| *byte ^= 0xff);
        let error = scene.refusal("damaged", damaged);
        assert!(error.contains(&format!("a {kind} archive that is")), "{error}");
        assert!(scene.refusal("twice.gz", gzip(&whole)).contains("compressed twice"));
    }
    let mut changed = zstandard(text.as_bytes());
    *changed.last_mut().expect("a checksum") ^= 1;
    assert!(scene.refusal("checksum.zst", changed).contains("its checksum is that of another text"));
    // Zeros after an archive, as tapes have them, are no damage.
    let padded = [gzip(b"first "), vec![0; 3], gzip(b"second"), vec![0; 512]].concat();
    assert_eq!(scene.text("padded.gz", padded), "first second");
    let error = scene.refusal("damaged.gz", [gzip(b"first"), b"\0\0more than padding".to_vec()].concat());
    assert!(error.contains("a gzip archive that is damaged"), "{error}");
}

#[test]
fn what_is_no_text_is_refused_by_its_name() {
    let scene = Scene::new();
    let tar = [vec![b'a'; 257], b"ustar\0".to_vec(), vec![0; 249]].concat();
    let safetensors = [&2u64.to_le_bytes()[..], b"{\"__metadata__\": {}}"].concat();
    for (name, bytes, what, way) in [
        ("data.txt", b"PAR1\x15\x04".to_vec(), "a Parquet file", "JSON lines"),
        ("data.parquet", b"PAR1\x15\x04".to_vec(), "a Parquet file", "pandas"),
        ("data.arrow", b"ARROW1\0\0\xff\xff\xff\xff".to_vec(), "an Arrow file", "JSON lines"),
        ("data.arrow", b"\xff\xff\xff\xff\x10\0\0\0".to_vec(), "an Arrow stream", "JSON lines"),
        ("data.db", b"SQLite format 3\0\x10".to_vec(), "an SQLite database", "JSON lines"),
        ("data.docx", b"PK\x03\x04\x14\0".to_vec(), "a ZIP archive (as .docx", "plain text"),
        ("data.pdf", b"%PDF-1.7\n".to_vec(), "a PDF document", "plain text"),
        ("data.bz2", b"BZh91AY&SY\x01".to_vec(), "a bzip2 archive", "gzip"),
        ("data.xz", b"\xfd7zXZ\0\0".to_vec(), "an xz archive", "gzip"),
        ("data.tar", tar.clone(), "a tar archive", "unpack"),
        ("data.tar.gz", gzip(&tar), "a tar archive", "unpack"),
        ("data.txt", safetensors, "a safetensors file", "text"),
        (
            "data.txt",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n".to_vec(),
            "a Git LFS pointer",
            "git lfs pull",
        ),
        ("data.jsonl", b" <!DOCTYPE html>\n<html>".to_vec(), "a web page", "fetch the file itself"),
        ("data.csv", b"id,text\n1,hello\n".to_vec(), "a table", "JSON lines"),
        ("data.TSV.gz", gzip(b"id\ttext\n"), "a table", "JSON lines"),
    ] {
        let error = scene.refusal(name, bytes);
        assert!(error.contains(&format!("{name}: {what}")) && error.contains(way), "{name}: {error}");
    }
    assert!(scene.refusal_of(scene.0.path()).contains("a directory; expected a file of text"));
    assert_eq!(scene.text("page.html", "<html>meant</html>"), "<html>meant</html>");
    assert_eq!(scene.text("note.txt", "PARTS, ORCS, GGUF and BZh are words"), "PARTS, ORCS, GGUF and BZh are words");
}
