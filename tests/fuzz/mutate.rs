//! Changes to files that keep some of what makes them files: of bytes, and of the values of JSON.

use super::support::Random;

/// Numbers that are the ends of some range, or none of its own.
const NUMBERS: [&str; 27] = [
    "0",
    "1",
    "2",
    "3",
    "7",
    "-1",
    "255",
    "4096",
    "65536",
    "2147483647",
    "4294967295",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775808",
    "-0.0",
    "0.5",
    "1e-300",
    "1e300",
    "1e400",
    "-1e400",
    "NaN",
    "Infinity",
    "-Infinity",
];

/// Values of other kinds, and texts that are hard to handle.
const VALUES: [&str; 20] = [
    "null",
    "true",
    "false",
    "[]",
    "{}",
    "\"\"",
    "\"x\"",
    "\"\\u0000\"",
    "\"\\ud800\"",
    "\"\u{fffd}\u{10ffff}\"",
    "\"..\\/..\\/x\"",
    "\"F64\"",
    "\"(a*)*b\"",
    "\"([\"",
    "\"1\"",
    "[null]",
    "[[]]",
    "[0, 0]",
    "{\"\": {}}",
    "{\"type\": \"Sequence\"}",
];

/// One of several.
pub fn one_of<'a, T: ?Sized>(choices: &[&'a T], random: &mut Random) -> &'a T {
    choices[random.below(choices.len() as u32) as usize]
}

/// Where the values of a text of JSON stand, containers included, and the keys among them.
#[derive(Debug, Clone)]
pub struct Json {
    text: Vec<u8>,
    values: Vec<Span>,
    keys: Vec<Span>,
}

/// Bytes from here to there.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: usize,
    end: usize,
}

impl Json {
    /// A text that is JSON.
    pub fn new(text: impl Into<Vec<u8>>) -> Self {
        Self::find(text.into()).expect("JSON")
    }

    /// The values of a text in which brackets and quotes have their other halves; `None` for other texts.
    fn find(text: Vec<u8>) -> Option<Self> {
        let mut this = Self { text, values: Vec::new(), keys: Vec::new() };
        let mut open = Vec::new();
        let mut at = 0;
        while let Some(&byte) = this.text.get(at) {
            let start = at;
            at += 1;
            match byte {
                b'{' | b'[' => open.push(start),
                b'}' | b']' => this.values.push(Span { start: open.pop()?, end: at }),
                b'"' => {
                    while *this.text.get(at)? != b'"' {
                        at += 1 + usize::from(this.text[at] == b'\\');
                    }
                    at += 1;
                    let rest = this.text[at..].trim_ascii_start();
                    let list = if rest.starts_with(b":") { &mut this.keys } else { &mut this.values };
                    list.push(Span { start, end: at });
                }
                b',' | b':' => {}
                byte if byte.is_ascii_whitespace() => {}
                _ => {
                    at += this.text[at..].iter().take_while(|byte| !b",:]}\n\r ".contains(byte)).count();
                    this.values.push(Span { start, end: at });
                }
            }
        }
        (open.is_empty() && !this.values.is_empty()).then_some(this)
    }

    /// The text with one to three changes.
    pub fn changed(&self, random: &mut Random) -> Vec<u8> {
        let mut text = self.change(random);
        for _ in 0..random.below(3) {
            // Of what is still JSON as far as brackets go, a value; of other texts, bytes.
            text = match Self::find(text.clone()) {
                Some(json) => json.change(random),
                None => bytes(&text, text.len(), random),
            };
        }
        text
    }

    fn change(&self, random: &mut Random) -> Vec<u8> {
        let list = if random.below(8) == 0 && !self.keys.is_empty() { &self.keys } else { &self.values };
        let Span { start, end } = list[random.below(list.len() as u32) as usize];
        let other = &self.values[random.below(self.values.len() as u32) as usize];
        let other = &self.text[other.start..other.end];
        let old = &self.text[start..end];
        let deep = |open: &str, close: &str, inside: &str, depth: usize| {
            [open.repeat(depth), inside.into(), close.repeat(depth)].concat().into_bytes()
        };
        let new: Vec<u8> = match random.below(16) {
            0..5 => one_of(&NUMBERS, random).into(),
            5..8 => one_of(&VALUES, random).into(),
            8..11 => other.into(),
            11 => {
                let depth = [2, 100, 126, 129, 10_000][random.below(5) as usize];
                match random.below(2) {
                    0 => deep("[", "]", "0", depth),
                    _ => deep("{\"type\": \"Sequence\", \"normalizers\": [", "]}", "", depth),
                }
            }
            12 => [b"\"", &vec![one_of(&["a", "\\", "\u{2581}"], random).as_bytes()[0]; 20_000][..], b"\""].concat(),
            // The same key again, with another value, where this is a key or what comes before is one.
            13 => [old, b", ", one_of(&["\"type\"", "\"a\"", "\"model\"", "\"id\""], random).as_bytes(), b": ", other]
                .concat(),
            14 => [old, b", ", old].concat(),
            _ => return bytes(&self.text, self.text.len(), random),
        };
        [&self.text[..start], &new, &self.text[end..]].concat()
    }
}

/// Bytes with one change among the first so many.
pub fn bytes(text: &[u8], within: usize, random: &mut Random) -> Vec<u8> {
    const NUMBERS: [u64; 14] = [
        0,
        1,
        7,
        9,
        1 << 16,
        1 << 31,
        1 << 32,
        1 << 40,
        1 << 53,
        1 << 62,
        1 << 63,
        u64::MAX,
        u64::MAX - 7,
        u64::MAX - 31,
    ];
    let mut bytes = text.to_vec();
    let within = within.min(bytes.len());
    if within == 0 {
        return bytes;
    }
    let at = random.below(within as u32) as usize;
    let number = NUMBERS[random.below(NUMBERS.len() as u32) as usize].to_le_bytes();
    let end = |length: usize| bytes.len().min(at + length);
    match random.below(7) {
        0 => bytes[at] = random.below(256) as u8,
        1 => bytes[at] ^= 1 << random.below(8),
        2 => drop(bytes.splice(at..end(4), number[..4].iter().copied())),
        3 => drop(bytes.splice(at..end(8), number)),
        4 => drop(bytes.splice(at..end(random.below(16) as usize), number)),
        5 => bytes.truncate(at),
        _ => drop(bytes.splice(at..at, text[at..end(64)].to_vec())),
    }
    bytes
}

#[test]
fn values_and_keys_are_found_where_they_stand() {
    let json = Json::new(r#"{"a": [1, -2.5e3, "x\"]"], "b": {"c": null}}"#);
    let shown = |spans: &[Span]| {
        let one = |span: &Span| String::from_utf8_lossy(&json.text[span.start..span.end]).into_owned();
        spans.iter().map(one).collect::<Vec<_>>()
    };
    assert_eq!(shown(&json.keys), [r#""a""#, r#""b""#, r#""c""#]);
    let values = ["1", "-2.5e3", r#""x\"]""#, r#"[1, -2.5e3, "x\"]"]"#, "null", r#"{"c": null}"#];
    assert_eq!(shown(&json.values)[..6], values);
    assert_eq!(shown(&json.values).len(), 7);
}
