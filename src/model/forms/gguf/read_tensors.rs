//! The tensors of GGUF files → those of a checkpoint: names, the order of rows, what is fused on either side, and
//! what is transposed. The inverse of [`super::tensors`], for every row that files are read as.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use super::{
    delta::{self, DeltaTensor, Turn},
    names::{
        EMBEDDING, EMBEDDING_NORM, FINAL_NORM, FREQUENCY_FACTORS, HEAD, HEAD_NORMS, LONG_FACTORS, POSITIONS, SINKS,
        norms, stem, stem_of_fused,
    },
    source::{Source, is_gated},
};
use crate::{
    checkpoint::{Assembled, GgufEntry, GgufHeader, Part},
    error::{Error, Result},
    model::{
        Config, Names, TensorSpec,
        architecture::{Layout, Order, QkSpan, Role, Together, Weight},
        side_by_side,
        tensors::TOGETHER_BIAS,
    },
};

/// The tensors of the checkpoint that the config describes, put together from those of the file.
///
/// # Errors
/// [`Error::BadTensor`] for tensors that are missing or of another shape; [`Error::BadFile`] for those that the
/// architecture has no place for.
pub fn assemble(config: &Config, source: Source, header: &GgufHeader, path: &Path) -> Result<Vec<(String, Assembled)>> {
    let (used, runs) = (BTreeSet::new(), BTreeMap::new());
    let mut maker = Maker { config, source, header, path, used, runs, list: Vec::new() };
    maker.all()?;
    maker.check_all_used()?;
    Ok(maker.list)
}

/// A list of f32, if the file has a tensor of this name: where it is to be read.
///
/// # Errors
/// [`Error::BadTensor`] if it is something else.
pub fn list<'a>(header: &'a GgufHeader, name: &str, path: &Path) -> Result<Option<&'a GgufEntry>> {
    let Some(entry) = header.tensors.get(name) else { return Ok(None) };
    if entry.shape.len() != 1 || entry.encoding.name != "F32" || entry.shape[0] > 1 << 16 {
        let reason = format!("expected a list of F32, found {} of shape {:?}", entry.encoding.name, entry.shape);
        return Err(Error::BadTensor { name: name.into(), path: path.into(), reason });
    }
    Ok(Some(entry))
}

struct Maker<'a> {
    config: &'a Config,
    source: Source,
    header: &'a GgufHeader,
    path: &'a Path,
    used: BTreeSet<String>,
    /// The numbers of the rows of experts, by how many there are: many tensors have as many.
    runs: BTreeMap<usize, Arc<[usize]>>,
    list: Vec<(String, Assembled)>,
}

/// Where the file has the rows of a weight.
struct Place {
    stem: &'static str,
    /// The first of them.
    first: usize,
    /// How many the tensor has in all.
    rows: usize,
}

impl Maker<'_> {
    fn all(&mut self) -> Result<()> {
        let (config, names) = (self.config, Names::of(self.config));
        let (d, vocabulary) = (config.hidden_size, config.vocab_size);
        self.whole(names.embedding(), &format!("{EMBEDDING}.weight"), &[vocabulary, d])?;
        if let Some(name) = names.embedding_norm() {
            self.norm(&name, EMBEDDING_NORM)?;
        }
        if let Some(name) = names.positions() {
            self.whole(name, POSITIONS, &[config.max_position_embeddings, d])?;
        }
        for layer in 0..config.layers.len() {
            self.layer(layer, &names)?;
        }
        self.norm(&names.final_norm(), FINAL_NORM)?;
        if !config.tie_word_embeddings {
            self.whole(names.head(), &format!("{HEAD}.weight"), &[vocabulary, d])?;
        }
        if config.has_head_bias() {
            self.whole(names.head_bias(), &format!("{HEAD}.bias"), &[vocabulary])?;
        }
        Ok(())
    }

    fn layer(&mut self, layer: usize, names: &Names) -> Result<()> {
        let config = self.config;
        let mut made: Vec<&str> = Vec::new();
        for block in config.blocks(layer) {
            for (ours, theirs) in norms(config.architecture, block).into_iter().flatten() {
                // Two blocks may share one, which the file has under the first name.
                if !made.contains(&ours) {
                    made.push(ours);
                    self.norm(&names.layer(layer, ours), &format!("blk.{layer}.{theirs}"))?;
                }
            }
            for weight in block.weights.iter().filter(|weight| !delta::holds(&config.layers[layer], weight)) {
                self.weight(layer, weight, &names.layer(layer, weight.name))?;
            }
        }
        for tensor in delta::tensors(config, layer) {
            self.delta(layer, tensor)?;
        }
        self.experts(layer, names)?;
        if let Some(TensorSpec { name, shape }) = config.sinks(layer) {
            self.whole(name, &format!("blk.{layer}.{SINKS}"), &shape)?;
        }
        self.head_norms(layer, names)
    }

    /// The norms of queries and keys: one for all heads, or one of each, which the checkpoint may have in a tensor
    /// each.
    fn head_norms(&mut self, layer: usize, names: &Names) -> Result<()> {
        let spec = &self.config.layers[layer];
        let Some(qk) = self.config.qk_norm().filter(|_| spec.delta.is_none()) else { return Ok(()) };
        let stored = self.config.head_norms(layer);
        for ((parts, theirs), heads) in stored.into_iter().zip(HEAD_NORMS).zip([spec.heads, spec.kv_heads]) {
            let shape = match qk.span {
                QkSpan::Shared => &[spec.head_dim][..],
                QkSpan::Whole => &[heads * spec.head_dim],
                QkSpan::PerHead | QkSpan::PerHeadTensors => &[heads, spec.head_dim],
            };
            let theirs = format!("blk.{layer}.{theirs}.weight");
            let entry = self.entry(&theirs, shape)?;
            // The tensors here follow each other as rows do there.
            let mut first = 0;
            for (stem, shape) in parts {
                let (rows, width) = if let [rows, width] = *shape { (rows, width) } else { (1, shape[0]) };
                let part = entry.part(width, (first..first + rows).collect());
                first += rows;
                let ours = names.layer(layer, &format!("{stem}.weight"));
                self.list.push((ours, self.less_offset(Assembled::new(shape, vec![part], false))));
            }
        }
        Ok(())
    }

    /// A tensor of a gated delta net.
    fn delta(&mut self, layer: usize, tensor: DeltaTensor) -> Result<()> {
        let name = format!("blk.{layer}.{}", tensor.theirs);
        let entry = self.entry(&name, &tensor.shape)?;
        let &[count, ref width @ ..] = tensor.shape.as_slice() else { return Ok(()) };
        // The values of a vector are rows of one each.
        let width = width.first().copied().unwrap_or(1);
        self.check_rows(&name, &entry, width)?;
        let (rows, columns) = match &tensor.turn {
            Turn::Nothing => ((0..count).collect(), None),
            Turn::Rows(heads) => (heads.there().into(), None),
            Turn::Columns(heads) => ((0..count).collect(), Some(heads.there())),
        };
        let mut made = Assembled::new(tensor.ours.shape, vec![entry.part(width, rows)], false);
        if let Some(columns) = columns {
            made = made.with_columns(columns);
        }
        self.list.push((tensor.ours.name, if tensor.rates { made.of_rates() } else { made }));
        Ok(())
    }

    /// Refuses blocks that hold more than a row.
    fn check_rows(&self, name: &str, entry: &GgufEntry, width: usize) -> Result<()> {
        if width.is_multiple_of(entry.encoding.block) {
            return Ok(());
        }
        Err(self.bad(name, format!("expected floats, found {}", entry.encoding.name)))
    }

    /// The weights of each expert, which the file has in one tensor for each role.
    fn experts(&mut self, layer: usize, names: &Names) -> Result<()> {
        if let Some(together) = self.config.architecture.mixture.and_then(|mixture| mixture.together) {
            return self.experts_together(layer, names, together);
        }
        let count = self.config.layers[layer].experts.map_or(0, |experts| experts.count);
        for (expert, weight) in self.config.expert_weights(layer) {
            let (rows, cols) = self.config.weight_shape(weight, layer);
            let name = format!("blk.{layer}.{}_exps.weight", stem(weight.holds[0]));
            let entry = self.entry(&name, &[count, rows, cols])?;
            let bytes = rows * (cols / entry.encoding.block) * entry.encoding.bytes;
            let part = Part { offset: entry.offset + (expert * bytes) as u64, ..entry.part(cols, self.run(rows)) };
            self.list.push((names.expert(layer, expert, weight), Assembled::new(vec![rows, cols], vec![part], false)));
        }
        for (weight, [rows, cols]) in self.config.shared_weights(layer) {
            let name = format!("blk.{layer}.{}_shexp.weight", stem(weight.holds[0]));
            // The gate has one row, which the file has as a vector.
            let shape = if weight.holds == [Role::Router] { &[cols][..] } else { &[rows, cols] };
            let part = self.entry(&name, shape)?.part(cols, (0..rows).collect());
            let ours = names.layer(layer, &format!("{}.weight", weight.name));
            self.list.push((ours, Assembled::new(vec![rows, cols], vec![part], false)));
        }
        Ok(())
    }

    /// The same where the checkpoint has the weights of all experts in one tensor, too: their transposes.
    fn experts_together(&mut self, layer: usize, names: &Names, together: Together) -> Result<()> {
        let count = self.config.layers[layer].experts.map_or(0, |experts| experts.count);
        let weights = self.config.architecture.mixture.map_or(&[][..], |mixture| mixture.weights);
        for (ours, roles) in [(together.gate_up, &[Role::Gate, Role::Up][..]), (together.down, &[Role::Down])] {
            let (ours, (rows, cols)) = (names.layer(layer, ours), self.config.linear_shape(roles[0], layer));
            let (mut matrices, mut biases) = (Vec::new(), Vec::new());
            for role in roles {
                let theirs = format!("blk.{layer}.{}_exps", stem(*role));
                let weight = self.entry(&format!("{theirs}.weight"), &[count, rows, cols])?;
                matrices.push(weight.part(cols, self.run(count * rows)));
                let biased = |weight: &&Weight| weight.holds == [*role] && self.config.has_bias(weight.bias);
                if weights.iter().any(|weight| biased(&weight)) {
                    let name = format!("{theirs}.bias");
                    let bias = self.entry(&name, &[count, rows])?;
                    self.check_rows(&name, &bias, 1)?;
                    biases.push(bias.part(1, self.run(count * rows)));
                }
            }
            let width = roles.len() * rows;
            self.list.push((ours.clone(), Assembled::new(vec![count, cols, width], matrices, true).in_turn()));
            if !biases.is_empty() {
                let biases = Assembled::new(vec![count, width], biases, false).in_turn();
                self.list.push((format!("{ours}{TOGETHER_BIAS}"), biases));
            }
        }
        Ok(())
    }

    /// The numbers of the first `rows` rows.
    fn run(&mut self, rows: usize) -> Arc<[usize]> {
        Arc::clone(self.runs.entry(rows).or_insert_with(|| (0..rows).collect()))
    }

    /// What is added to the stored weights of norms is in those of the file.
    fn less_offset(&self, tensor: Assembled) -> Assembled {
        let offset = self.config.architecture.norm.offset;
        if offset == 0.0 { tensor } else { tensor.plus(-offset) }
    }

    /// A norm of the residual stream.
    fn norm(&mut self, ours: &str, theirs: &str) -> Result<()> {
        let width = self.config.hidden_size;
        if !self.config.norm_affine {
            return Ok(());
        }
        self.whole(format!("{ours}.weight"), &format!("{theirs}.weight"), &[width])?;
        if let Some((name, tensor)) = self.list.pop() {
            let tensor = self.less_offset(tensor);
            self.list.push((name, tensor));
        }
        if self.config.norm_has_bias() {
            self.whole(format!("{ours}.bias"), &format!("{theirs}.bias"), &[width])?;
        }
        Ok(())
    }

    /// A tensor that both have alike.
    fn whole(&mut self, ours: String, theirs: &str, shape: &[usize]) -> Result<()> {
        let entry = self.entry(theirs, shape)?;
        let (rows, width) = if let [rows, width] = *shape { (rows, width) } else { (1, shape[0]) };
        let part = entry.part(width, (0..rows).collect());
        self.list.push((ours, Assembled::new(shape.to_vec(), vec![part], false)));
        Ok(())
    }

    fn weight(&mut self, layer: usize, weight: &Weight, ours: &str) -> Result<()> {
        let (rows, cols) = self.config.weight_shape(weight, layer);
        // Pairs are pairs there, too.
        if weight.order == Order::Paired {
            let theirs = format!("blk.{layer}.{}.weight", stem(weight.holds[0]));
            return self.whole(format!("{ours}.weight"), &theirs, &[rows, cols]);
        }
        let transposed = weight.layout == Layout::Conv1d;
        let parts = self.parts(layer, weight, "weight", Some(cols))?;
        let shape = if transposed { vec![cols, rows] } else { vec![rows, cols] };
        self.list.push((format!("{ours}.weight"), Assembled::new(shape, parts, transposed)));
        if self.config.linear_bias(weight) {
            let parts = self.parts(layer, weight, "bias", None)?;
            self.list.push((format!("{ours}.bias"), Assembled::new(vec![rows], parts, false)));
        }
        Ok(())
    }

    /// The rows of the file that make a stored weight or, without a width, its bias.
    fn parts(&mut self, layer: usize, weight: &Weight, end: &str, width: Option<usize>) -> Result<Vec<Part>> {
        let mut entries: Vec<(String, GgufEntry)> = Vec::new();
        let mut places = Vec::new();
        for role in weight.holds {
            let place = self.place(layer, *role);
            let name = format!("blk.{layer}.{}.{end}", place.stem);
            let shape: Vec<usize> = std::iter::once(place.rows).chain(width).collect();
            let entry = self.entry(&name, &shape)?;
            let which = entries.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
                entries.push((name, entry));
                entries.len() - 1
            });
            places.push((role, which, place.first));
        }
        // For each stored row, of which the file is known to have as many: which of the tensors, and which row of it.
        let mut order = vec![(0, 0); self.config.weight_shape(weight, layer).0];
        for (role, which, first) in places {
            let stored = self.config.weight_rows(weight, *role, layer);
            for row in 0..stored.len() {
                order[stored.stored(row)] = (which, first + self.row_there(layer, *role, row));
            }
        }
        let mut parts = Vec::new();
        for run in order.chunk_by(|one, other| one.0 == other.0) {
            let (name, entry) = &entries[run[0].0];
            let rows: Arc<[usize]> = run.iter().map(|(_, row)| *row).collect();
            let width = width.unwrap_or(1);
            self.check_rows(name, entry, width)?;
            parts.push(entry.part(width, rows));
        }
        Ok(parts)
    }

    /// Where a weight begins: in a tensor of its own, or in one with others.
    fn place(&self, layer: usize, role: Role) -> Place {
        let spec = &self.config.layers[layer];
        let there = |role: Role| self.header.tensors.contains_key(&format!("blk.{layer}.{}.weight", stem(role)));
        let rows = |roles: &[Role]| roles.iter().map(|role| spec.rows(*role)).sum::<usize>();
        let own = Place { stem: stem(role), first: 0, rows: self.config.linear_shape(role, layer).0 };
        let [q, k, v] = [Role::Query, Role::Key, Role::Value];
        let fused_gate = is_gated(self.config.architecture) && !there(Role::Gate);
        match role {
            Role::Query | Role::Key | Role::Value if !there(role) => {
                let before = [q, k, v].into_iter().take_while(|other| *other != role).collect::<Vec<_>>();
                Place { stem: stem_of_fused(&[q, k, v]), first: rows(&before), rows: rows(&[q, k, v]) }
            }
            Role::Gate | Role::Up if fused_gate => {
                let first = if role == Role::Up { rows(&[Role::Gate]) } else { 0 };
                Place { stem: stem(Role::Up), first, rows: rows(&[Role::Gate, Role::Up]) }
            }
            _ => own,
        }
    }

    /// Which row of its tensor holds a row of a weight: another one of its head where the file has coordinates that
    /// turn together side by side.
    fn row_there(&self, layer: usize, role: Role, row: usize) -> usize {
        let interleaved = self.source.form.interleaved && matches!(role, Role::Query | Role::Key);
        let head_dim = self.config.layers[layer].head_dim;
        if interleaved { row / head_dim * head_dim + side_by_side(row % head_dim, head_dim / 2) } else { row }
    }

    fn bad(&self, name: &str, reason: String) -> Error {
        Error::BadTensor { name: name.into(), path: self.path.into(), reason }
    }

    fn entry(&mut self, name: &str, shape: &[usize]) -> Result<GgufEntry> {
        let entry = self.header.tensors.get(name);
        let entry = entry.ok_or_else(|| self.bad(name, format!("missing; the metadata implies {shape:?}")))?;
        if entry.shape != shape {
            return Err(self.bad(name, format!("expected shape {shape:?}, found {:?}", entry.shape)));
        }
        self.used.insert(name.to_owned());
        Ok(entry.clone())
    }

    /// Whether a tensor is read elsewhere, or by nobody.
    fn is_elsewhere(&self, name: &str) -> bool {
        let long = LONG_FACTORS.contains(&name) && self.config.ropes.iter().any(|rope| rope.long.is_some());
        name == FREQUENCY_FACTORS || long || name.ends_with(".attn_rot_embd")
    }

    fn check_all_used(&self) -> Result<()> {
        let left: Vec<&str> = self
            .header
            .tensors
            .keys()
            .map(String::as_str)
            .filter(|name| !self.used.contains(*name) && !self.is_elsewhere(name))
            .collect();
        let Some(first) = left.first() else { return Ok(()) };
        let what = match first {
            name if name.contains("_exps") || name.contains("ffn_gate_inp") => ": it is a mixture of experts",
            _ => "",
        };
        let reason = format!(
            "has {} tensors that {} has no place for here, {first} first{what}",
            left.len(),
            self.source.architecture
        );
        Err(Error::bad_file(self.path, reason))
    }
}
