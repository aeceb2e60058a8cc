//! A reader of GGUF files that shares nothing with the writer.
#![allow(dead_code, reason = "each test file uses a part")]

use std::{collections::BTreeMap, path::Path};

use half::f16;

/// A value of the metadata, numbers of all kinds as f64.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Number(f64),
    Bool(bool),
    Text(String),
    List(Vec<Value>),
}

pub struct Tensor {
    /// As in the file: the innermost first.
    pub dimensions: Vec<u64>,
    pub kind: u32,
    pub data: Vec<u8>,
}

impl Tensor {
    pub fn values(&self) -> Vec<f32> {
        match self.kind {
            0 => self.data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            1 => self.data.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
            8 => {
                let block = |block: &[u8]| {
                    let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
                    block[2..].iter().map(|&byte| scale * f32::from(byte as i8)).collect::<Vec<_>>()
                };
                self.data.chunks_exact(34).flat_map(block).collect()
            }
            other => panic!("element type {other}"),
        }
    }
}

pub struct Read {
    pub metadata: BTreeMap<String, Value>,
    pub names: Vec<String>,
    pub tensors: BTreeMap<String, Tensor>,
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        self.at += N;
        self.bytes[self.at - N..self.at].try_into().expect("bytes")
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    fn text(&mut self) -> String {
        let len = self.u64() as usize;
        self.at += len;
        String::from_utf8(self.bytes[self.at - len..self.at].to_vec()).expect("UTF-8")
    }

    fn value(&mut self, kind: u32) -> Value {
        match kind {
            4 => Value::Number(f64::from(self.u32())),
            5 => Value::Number(f64::from(i32::from_le_bytes(self.take()))),
            6 => Value::Number(f64::from(f32::from_le_bytes(self.take()))),
            7 => Value::Bool(self.take::<1>() == [1]),
            8 => Value::Text(self.text()),
            9 => {
                let kind = self.u32();
                Value::List((0..self.u64()).map(|_| self.value(kind)).collect())
            }
            other => panic!("value type {other}"),
        }
    }
}

pub fn read(path: &Path) -> Read {
    let bytes = std::fs::read(path).expect("a file");
    let mut cursor = Cursor { bytes: &bytes, at: 0 };
    assert_eq!((&cursor.take::<4>(), cursor.u32()), (b"GGUF", 3));
    let (tensors, entries) = (cursor.u64(), cursor.u64());
    let mut metadata = BTreeMap::new();
    for _ in 0..entries {
        let (key, kind) = (cursor.text(), cursor.u32());
        let value = cursor.value(kind);
        assert!(metadata.insert(key.clone(), value).is_none(), "{key} is there twice");
    }
    let headers: Vec<_> = (0..tensors)
        .map(|_| {
            let name = cursor.text();
            let dimensions: Vec<u64> = (0..cursor.u32()).map(|_| cursor.u64()).collect();
            (name, dimensions, cursor.u32(), cursor.u64() as usize)
        })
        .collect();
    let data = cursor.at.next_multiple_of(32);
    let mut end = data;
    let mut read = Read { metadata, names: Vec::new(), tensors: BTreeMap::new() };
    for (name, dimensions, kind, offset) in headers {
        let values = dimensions.iter().product::<u64>() as usize;
        let len = match kind {
            0 => 4 * values,
            1 => 2 * values,
            39 => values / 32 * 17,
            _ => values / 32 * 34,
        };
        assert!(
            offset.is_multiple_of(32) && data + offset == end.next_multiple_of(32),
            "{name} lies at {offset}, before it ends {end}"
        );
        end = data + offset + len;
        read.names.push(name.clone());
        read.tensors.insert(name, Tensor { dimensions, kind, data: bytes[data + offset..end].to_vec() });
    }
    assert_eq!(bytes.len(), end.next_multiple_of(32), "nothing after the last tensor but padding");
    read
}
