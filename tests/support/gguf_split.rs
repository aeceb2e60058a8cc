//! A GGUF file in several, as llama.cpp's gguf-split makes them of one.
#![allow(dead_code, reason = "each test file uses a part")]

use std::path::{Path, PathBuf};

use slicegpt_gpu::{
    checkpoint::{FileTarget, GgufFile, GgufTensor, GgufType, GgufValue},
    model::{GgufExport, Model, Vocabulary},
    progress::Silent,
};

use super::gguf_reader;

/// What one of the files will have.
#[derive(Clone)]
pub struct Part {
    pub metadata: Vec<(String, GgufValue)>,
    pub tensors: Vec<(GgufTensor, Vec<f32>)>,
}

impl Part {
    /// Gives a key another value, or takes it out.
    pub fn set(&mut self, key: &str, value: Option<GgufValue>) {
        self.metadata.retain(|(known, _)| known != key);
        self.metadata.extend(value.map(|value| (key.to_owned(), value)));
    }

    pub fn write(&self, path: &Path) {
        let target = FileTarget::new(path, true).expect("a name");
        let tensors = self.tensors.iter().map(|(tensor, _)| tensor.clone()).collect();
        let mut file = GgufFile::create(target, &self.metadata, tensors).expect("a file");
        self.tensors.iter().for_each(|(tensor, values)| file.write(&tensor.name, values).expect("values"));
        file.finish().expect("a file");
    }
}

/// The model as one file in f32, `whole`, and as several with these numbers of tensors and, in a last one, the rest.
pub fn split(model: &Model, vocabulary: Vocabulary, whole: &Path, counts: &[usize]) -> Vec<Part> {
    let export = GgufExport::plan(model, "a name", GgufType::F32, vocabulary).expect("a plan");
    export.write(FileTarget::new(whole, true).expect("a name"), &Silent).expect("a file");
    let read = gguf_reader::read(whole);
    let mut tensors = export.tensors().map(|tensor| (tensor.clone(), read.tensors[&tensor.name].values()));
    let mut parts: Vec<Part> = Vec::new();
    for count in counts {
        parts.push(Part { metadata: Vec::new(), tensors: tensors.by_ref().take(*count).collect() });
    }
    parts.push(Part { metadata: Vec::new(), tensors: tensors.collect() });
    parts[0].metadata = export.metadata().to_vec();
    let (files, all) = (parts.len(), read.tensors.len());
    for (number, part) in parts.iter_mut().enumerate() {
        let sizes = [("split.no", number), ("split.count", files), ("split.tensors.count", all)];
        part.metadata.extend(sizes.map(|(key, size)| (key.to_owned(), GgufValue::U32(size as u32))));
    }
    parts
}

/// Where one of the files belongs, counted from 1.
pub fn place(directory: &Path, stem: &str, number: usize, count: usize) -> PathBuf {
    directory.join(format!("{stem}-{number:05}-of-{count:05}.gguf"))
}

/// Writes all of them; returns where they are.
pub fn write(parts: &[Part], directory: &Path, stem: &str) -> Vec<PathBuf> {
    let written = |(number, part): (usize, &Part)| {
        let path = place(directory, stem, number + 1, parts.len());
        part.write(&path);
        path
    };
    parts.iter().enumerate().map(written).collect()
}
