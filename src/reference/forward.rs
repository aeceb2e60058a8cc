//! The whole forward pass of any architecture, one sequence at a time.

use nalgebra::DMatrix;

use super::kernels;
use crate::{
    error::{Error, Result},
    model::{
        Config, HostEnds, HostLayer, HostMatrix, HostNorm, WeightStore,
        architecture::{Position, Role, Space, Weight},
    },
    ops::{AttentionShape, Block, HeadSpan, Norm},
    slice::fuse,
};

/// A weight and a bias: of a linear layer `[out, in]`, or of a norm `[1, width]`.
#[derive(Debug, Clone)]
pub struct Affine {
    pub weight: DMatrix<f64>,
    pub bias: Option<Vec<f64>>,
}

impl Affine {
    fn norm(norm: &HostNorm) -> Self {
        Self { weight: kernels::matrix(1, norm.weight.len(), &norm.weight), bias: norm.bias.as_deref().map(wide) }
    }

    fn apply(&self, x: &DMatrix<f64>) -> DMatrix<f64> {
        kernels::linear(x, &self.weight, self.bias.as_deref())
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

fn host(matrix: &HostMatrix) -> Result<DMatrix<f64>> {
    Ok(kernels::matrix(matrix.rows, matrix.cols, &matrix.to_f32()?))
}

/// The weights of a decoder layer.
#[derive(Debug, Clone)]
pub struct Layer {
    pub linears: Vec<(&'static Weight, Affine)>,
    norms: [Option<Affine>; 2],
    head_norms: Option<[Affine; 2]>,
    /// `[width before, width after]`.
    pub shortcuts: [Option<DMatrix<f64>>; 2],
}

impl Layer {
    /// Widens a layer.
    ///
    /// # Errors
    /// [`Error::BadTensor`] if a stored value is not finite.
    pub fn new(layer: &HostLayer) -> Result<Self> {
        let linear =
            |linear: &crate::model::HostLinear| Ok((linear.spec, Affine { weight: host(&linear.matrix)?, bias: linear.bias.as_deref().map(wide) }));
        let shortcut = |half: usize| layer.shortcuts[half].as_ref().map(|shortcut| Ok::<_, Error>(host(shortcut)?.transpose())).transpose();
        Ok(Self {
            linears: layer.linears.iter().map(linear).collect::<Result<_>>()?,
            norms: [0, 1].map(|half| layer.norms[half].as_ref().map(Affine::norm)),
            head_norms: layer.head_norms.as_ref().map(|norms| [0, 1].map(|i| Affine::norm(&norms[i]))),
            shortcuts: [shortcut(0)?, shortcut(1)?],
        })
    }

    fn role(&self, role: Role) -> Option<&Affine> {
        self.linears.iter().find(|(spec, _)| spec.role == role).map(|(_, affine)| affine)
    }

    fn output(&self, attention: bool) -> Result<&Affine> {
        self.role(if attention { Role::Output } else { Role::Down }).ok_or_else(|| Error::shape("reference", "a block that writes nothing"))
    }
}

/// A whole model in f64.
#[derive(Debug, Clone)]
pub struct Network<'a> {
    pub config: &'a Config,
    /// Whether the norms are in the weights.
    pub fused: bool,
    pub layers: Vec<Layer>,
    pub embedding: DMatrix<f64>,
    pub positions: Option<DMatrix<f64>>,
    final_norm: Option<Affine>,
    pub head: Affine,
}

/// The logits `[tokens, vocab_size]` of one sequence, of a dense or a sliced checkpoint.
///
/// # Errors
/// [`Error::BadTensor`] if a stored value is not finite.
pub fn logits(store: &WeightStore, row: &[u32]) -> Result<DMatrix<f64>> {
    Network::load(store)?.logits(row)
}

impl<'a> Network<'a> {
    /// Widens the weights of a model.
    ///
    /// # Errors
    /// [`Error::BadTensor`] if a stored value is not finite.
    pub fn new(config: &'a Config, layers: &[HostLayer], ends: &HostEnds) -> Result<Self> {
        Ok(Self {
            config,
            fused: ends.fused,
            layers: layers.iter().map(Layer::new).collect::<Result<_>>()?,
            embedding: host(&ends.embedding)?,
            positions: ends.positions.as_ref().map(host).transpose()?,
            final_norm: ends.final_norm.as_ref().map(Affine::norm),
            head: Affine { weight: host(&ends.head)?, bias: ends.head_bias.as_deref().map(wide) },
        })
    }

    /// The model as it is stored.
    ///
    /// # Errors
    /// [`Error::BadTensor`] if a stored value is not finite.
    pub fn load(store: &'a WeightStore) -> Result<Self> {
        let layers = (0..store.config.num_hidden_layers).map(|layer| store.layer(layer)).collect::<Result<Vec<_>>>()?;
        Self::new(&store.config, &layers, &store.ends()?)
    }

    /// The dense model with its norms in its weights (in f32, as slicing has them).
    ///
    /// # Errors
    /// As [`Network::load`].
    pub fn load_fused(store: &'a WeightStore) -> Result<Self> {
        let config = &store.config;
        let layers = (0..config.num_hidden_layers).map(|layer| fuse::layer(config, &store.layer(layer)?)).collect::<Result<Vec<_>>>()?;
        let ends = store.ends()?;
        let embedding =
            |table: &HostMatrix| Ok::<_, Error>(HostMatrix::from_f32(table.rows, table.cols, fuse::embedding_rows(config, table, 0..table.rows)?));
        let (head, head_bias) = fuse::head_rows(&ends, 0..ends.head.rows)?;
        let fused = HostEnds {
            fused: true,
            embedding: embedding(&ends.embedding)?,
            positions: ends.positions.as_ref().map(embedding).transpose()?,
            final_norm: None,
            head: HostMatrix::from_f32(ends.head.rows, ends.head.cols, head),
            head_bias,
        };
        Self::new(config, &layers, &fused)
    }

    /// The logits `[tokens, vocab_size]` of one sequence.
    ///
    /// # Errors
    /// [`Error::Shape`] if a weight is missing.
    pub fn logits(&self, row: &[u32]) -> Result<DMatrix<f64>> {
        let x = (0..self.layers.len()).try_fold(self.embed(row), |x, layer| self.layer(layer, &x))?;
        Ok(self.head.apply(&self.norm(self.final_norm.as_ref(), &x)))
    }

    /// exp of the mean over the rows of their mean negative log-likelihood.
    ///
    /// # Errors
    /// As [`Network::logits`].
    pub fn perplexity(&self, rows: &[Vec<u32>]) -> Result<f64> {
        let mut sum = 0.0;
        for row in rows {
            let predicted = row.len() - 1;
            let losses = kernels::loss(&self.logits(row)?.rows(0, predicted).into_owned(), &row[1..]);
            sum += losses.iter().sum::<f64>() / predicted as f64;
        }
        Ok((sum / rows.len() as f64).exp())
    }

    /// The residual before the first layer.
    pub fn embed(&self, row: &[u32]) -> DMatrix<f64> {
        let x = kernels::embed(row, &self.embedding);
        match (&self.positions, self.config.architecture.position) {
            (Some(table), Position::Learned { offset, .. }) => {
                x + kernels::embed_positions(&(0..row.len() as u32).collect::<Vec<_>>(), offset, table)
            }
            _ => x,
        }
    }

    /// The residual after a layer.
    ///
    /// # Errors
    /// As [`Network::logits`].
    pub fn layer(&self, index: usize, x: &DMatrix<f64>) -> Result<DMatrix<f64>> {
        let after_attention = self.after_attention(index, x)?;
        let layer = &self.layers[index];
        if self.config.parallel { Ok(after_attention + self.mlp(layer, x)?) } else { self.after_mlp(index, &after_attention) }
    }

    /// The residual after the attention block: `x · shortcut + attention(norm(x))`.
    ///
    /// # Errors
    /// As [`Network::logits`].
    pub fn after_attention(&self, index: usize, x: &DMatrix<f64>) -> Result<DMatrix<f64>> {
        Ok(carried(x, &self.layers[index].shortcuts[0]) + self.attention(index, x)?)
    }

    /// The residual after the MLP block of sequential blocks.
    ///
    /// # Errors
    /// As [`Network::logits`].
    pub fn after_mlp(&self, index: usize, x: &DMatrix<f64>) -> Result<DMatrix<f64>> {
        Ok(carried(x, &self.layers[index].shortcuts[1]) + self.mlp(&self.layers[index], x)?)
    }

    /// The final norm's, the attention's or the MLP's scaling of `x`, without parameters where they are in the weights.
    pub(super) fn norm(&self, parameters: Option<&Affine>, x: &DMatrix<f64>) -> DMatrix<f64> {
        let kind = if self.fused { Norm::Rms } else { self.config.architecture.norm };
        let weight = parameters.map(|norm| norm.weight.as_slice());
        let bias = parameters.and_then(|norm| norm.bias.as_deref());
        kernels::norm(kind, x, weight, bias, self.config.hidden_size, f64::from(self.config.norm_eps))
    }

    fn attention(&self, index: usize, x: &DMatrix<f64>) -> Result<DMatrix<f64>> {
        Ok(self.layers[index].output(true)?.apply(&self.attended(index, x)))
    }

    /// What the attention's output projection reads.
    pub(super) fn attended(&self, index: usize, x: &DMatrix<f64>) -> DMatrix<f64> {
        let (config, layer) = (self.config, &self.layers[index]);
        let (h, heads, kv) = (config.head_dim, config.num_attention_heads, config.num_key_value_heads);
        let input = self.norm(layer.norms[0].as_ref(), x);
        // Whatever the projections look like: all queries, then all keys, then all values.
        let mut qkv = DMatrix::zeros(x.nrows(), (heads + 2 * kv) * h);
        let mut put = |column: usize, values: &DMatrix<f64>| qkv.columns_mut(column, values.ncols()).copy_from(values);
        for (role, column) in [(Role::Query, 0), (Role::Key, heads * h), (Role::Value, (heads + kv) * h), (Role::Qkv, 0)] {
            if let Some(projection) = layer.role(role) {
                put(column, &projection.apply(&input));
            }
        }
        if let Some(projection) = layer.role(Role::QkvPerHead) {
            let mixed = projection.apply(&input);
            for head in 0..heads {
                for part in 0..3 {
                    put((part * heads + head) * h, &mixed.columns((3 * head + part) * h, h).into_owned());
                }
            }
        }
        let span = |column, heads| HeadSpan { column, stride: h, heads };
        let (q, k, v) = (span(0, heads), span(heads * h, kv), span((heads + kv) * h, kv));
        if let (Some(norms), Some(qk)) = (&layer.head_norms, config.architecture.qk_norm) {
            for (span, norm) in [q, k].into_iter().zip(norms) {
                kernels::head_norm(qk.norm, &mut qkv, span, norm.weight.as_slice(), norm.bias.as_deref(), f64::from(config.norm_eps));
            }
        }
        if let (Some(rope), Position::Rope { pairing, .. }) = (&config.rope, config.architecture.position) {
            let positions: Vec<u32> = (0..x.nrows() as u32).collect();
            for span in [q, k] {
                kernels::rope(pairing, &mut qkv, span, &positions, &rope.inverse_frequencies, f64::from(rope.attention_factor));
            }
        }
        let shape = AttentionShape { head_dim: h, q, k, v, scale: config.attention_scales[index], window: config.windows[index] };
        let sequence = Block { first: 0, tokens: x.nrows(), kv_row: 0, position: 0 };
        kernels::attention(&shape, &qkv, &qkv, &[sequence])
    }

    fn mlp(&self, layer: &Layer, x: &DMatrix<f64>) -> Result<DMatrix<f64>> {
        Ok(layer.output(false)?.apply(&self.hidden(layer, x)))
    }

    /// What the MLP's last projection reads.
    pub(super) fn hidden(&self, layer: &Layer, x: &DMatrix<f64>) -> DMatrix<f64> {
        let config = self.config;
        let which = usize::from(config.architecture.mlp_norm.is_some());
        let input = self.norm(layer.norms[which].as_ref(), x);
        let mut inner = DMatrix::zeros(x.nrows(), 0);
        for (spec, read) in layer.linears.iter().filter(|(spec, _)| !spec.role.is_attention() && spec.reads == Space::Residual) {
            let (values, before) = (read.apply(&input), inner.ncols());
            // Gate before up, in whatever order the table has them.
            let at = if spec.role == Role::Gate { 0 } else { before };
            inner = inner.insert_columns(at, values.ncols(), 0.0);
            inner.columns_mut(at, values.ncols()).copy_from(&values);
        }
        kernels::activation(config.activation, config.architecture.gated, &inner)
    }
}

fn carried(x: &DMatrix<f64>, shortcut: &Option<DMatrix<f64>>) -> DMatrix<f64> {
    shortcut.as_ref().map_or_else(|| x.clone(), |shortcut| x * shortcut)
}
