//! The end of the smaller model: its final norm and its head.

use crate::{
    error::Result,
    fit::{Factor, Map, Regression, Rotation},
    gpu::Matrix,
    model::{Config, HostEnds, Names, Readout, TensorSpec},
    ops::Norm,
    stream::{Pass, Residual, located},
};

/// How the smaller model's head comes about.
pub enum Head {
    /// It is fitted, with the final norm in its rows.
    Fused(Map),
    /// It is fitted to what the final norm gives it, or stays as it is.
    Whole(Option<Map>),
    /// It is the embedding; the weights of the final norm, as the width of the dense model scales it.
    Tied(Vec<f32>),
}

/// What the end has to do with.
pub struct Ways<'a> {
    /// Of the smaller model.
    pub config: &'a Config,
    /// Into the narrower residual stream, with the final norm where the head is the embedding.
    pub coordinates: Option<&'a (Rotation, Option<Vec<f64>>)>,
    pub stored_width: usize,
    pub ridge: f64,
    pub dense: &'a Residual,
    /// The smaller model's residual, if it is another.
    pub small: Option<&'a Residual>,
}

impl Ways<'_> {
    /// The residuals of a batch, the dense model's and the other's.
    fn residuals(&self, pass: &Pass, index: usize) -> Result<[Matrix; 2]> {
        let x = self.dense.load(pass.gpu, index)?;
        let z = self.small.map_or(Ok(x.clone()), |small| small.load(pass.gpu, index))?;
        Ok([x, z])
    }

    /// Fits the head, or the factor of the final norm where the head is the embedding.
    ///
    /// # Errors
    /// [`crate::Error::Numerical`]; whatever the GPU reports.
    pub fn head(&self, pass: &Pass, ends: &HostEnds) -> Result<Head> {
        if self.config.tie_word_embeddings {
            return self.final_norm(pass, ends).map(Head::Tied);
        }
        match (self.coordinates, self.small) {
            (Some((rotation, _)), _) => {
                let n = |x: &Matrix, _: &Readout| self.plain_norm(pass, x);
                let prior = rotation.values(pass.gpu)?;
                self.map(pass, ends, &prior, n).map(Head::Fused)
            }
            (None, None) => Ok(Head::Whole(None)),
            (None, Some(_)) => {
                let width = pass.config.hidden_size;
                let one = |at: usize| f32::from(u8::from(at % width == at / width));
                let prior: Vec<f32> = (0..width * width).map(one).collect();
                let n = |x: &Matrix, readout: &Readout| readout.norm(pass.gpu, pass.config, x);
                self.map(pass, ends, &prior, n).map(|map| Head::Whole(Some(map)))
            }
        }
    }

    fn plain_norm(&self, pass: &Pass, x: &Matrix) -> Result<Matrix> {
        pass.gpu.norm(Norm::Rms, x, None, None, pass.config.hidden_size, pass.config.norm_eps)
    }

    /// What takes the smaller model's normed residual to the dense one's.
    fn map(
        &self,
        pass: &Pass,
        ends: &HostEnds,
        prior: &[f32],
        norm: impl Fn(&Matrix, &Readout) -> Result<Matrix>,
    ) -> Result<Map> {
        let (gpu, width) = (pass.gpu, pass.config.hidden_size);
        let readout = Readout::upload(gpu, ends)?;
        let small = prior.len() / width;
        let mut regression = Regression::new(vec![small], width, self.config.has_head_bias());
        for index in 0..pass.counted {
            let [x, z] = self.residuals(pass, index)?;
            let ones = gpu.upload(&vec![1.0; x.rows()], x.rows(), 1)?;
            regression.add(gpu, &[norm(&z, &readout)?], &norm(&x, &readout)?, &ones)?;
        }
        let fit = located("head", regression.fit(gpu, prior, self.ridge))?;
        Map::upload(gpu, &fit, width, small)
    }

    /// The weights of the final norm before a tied head, times the factor with which what it gives is nearest to what
    /// the dense model's gives.
    fn final_norm(&self, pass: &Pass, ends: &HostEnds) -> Result<Vec<f32>> {
        let alpha = ends.final_norm.as_ref().map_or(Vec::new(), |norm| norm.weight.clone());
        let weights: Vec<f32> = match self.coordinates {
            Some((_, Some(weights))) => weights.iter().map(|&weight| weight as f32).collect(),
            _ => alpha.clone(),
        };
        if self.small.is_none() || alpha.is_empty() {
            return Ok(weights);
        }
        let mut factor = Factor::default();
        for index in 0..pass.counted {
            let [x, z] = self.residuals(pass, index)?;
            let goal = self.weighted(pass, &x, &alpha)?;
            let goal = match self.coordinates {
                Some((rotation, _)) => rotation.reads(pass.gpu, &goal)?,
                None => goal,
            };
            factor.add(pass.gpu, &goal, &self.weighted(pass, &z, &weights)?)?;
        }
        let factor = factor.value();
        Ok(weights.into_iter().map(|weight| (f64::from(weight) * factor) as f32).collect())
    }

    /// The norm before the head with these weights and no bias.
    fn weighted(&self, pass: &Pass, x: &Matrix, weights: &[f32]) -> Result<Matrix> {
        let (gpu, config) = (pass.gpu, pass.config);
        let weights = gpu.upload(weights, 1, weights.len())?;
        gpu.norm(config.architecture.norm.kind, x, Some(&weights), None, config.hidden_size, config.norm_eps)
    }

    /// What the head reads of a batch in both models, `[tokens, hidden_size]`, in the dense one's terms.
    ///
    /// # Errors
    /// Whatever the GPU reports.
    pub fn inputs(&self, pass: &Pass, ends: &HostEnds, head: &Head, index: usize) -> Result<[Matrix; 2]> {
        let (gpu, config) = (pass.gpu, pass.config);
        let readout = Readout::upload(gpu, ends)?;
        let [x, z] = self.residuals(pass, index)?;
        let other = match head {
            Head::Fused(map) => return Ok([self.plain_norm(pass, &x)?, map.signal(gpu, &self.plain_norm(pass, &z)?)?]),
            Head::Whole(None) => readout.norm(gpu, config, &z)?,
            Head::Whole(Some(map)) => map.signal(gpu, &readout.norm(gpu, config, &z)?)?,
            Head::Tied(weights) => {
                let norm = ends.final_norm.as_ref();
                let bias = norm.and_then(|norm| norm.bias.as_ref());
                let bias = bias.map(|bias| gpu.upload(bias, 1, bias.len())).transpose()?;
                let weights = if weights.is_empty() { None } else { Some(gpu.upload(weights, 1, weights.len())?) };
                let kind = config.architecture.norm.kind;
                let m = gpu.norm(kind, &z, weights.as_ref(), bias.as_ref(), config.hidden_size, config.norm_eps)?;
                match self.coordinates {
                    Some((rotation, _)) => rotation.rows_transposed(gpu, &m)?,
                    None => m,
                }
            }
        };
        Ok([readout.norm(gpu, config, &x)?, other])
    }

    /// Writes the final norm and the head.
    ///
    /// # Errors
    /// Those of the writer; whatever the GPU reports.
    pub fn write(&self, pass: &mut Pass, ends: &HostEnds, head: &Head) -> Result<()> {
        let (gpu, config) = (pass.gpu, pass.config);
        let names = Names::of(config);
        let tensors = config.tensors();
        let copy = |pass: &mut Pass, wanted: &dyn Fn(&TensorSpec) -> bool| {
            tensors.iter().filter(|spec| wanted(spec)).try_for_each(|spec| pass.copy(spec, &spec.name))
        };
        let norm = |spec: &TensorSpec| spec.name.starts_with(&names.final_norm());
        let is_head = |spec: &TensorSpec| [names.head(), names.head_bias()].contains(&spec.name);
        // The final norm takes the factor of the logits where there is one.
        let factor = |there: bool| if there { config.logit_scale } else { 1.0 };
        match head {
            Head::Fused(map) => pass.write_head(ends, |gpu, part, bias| map.rows(gpu, part, bias)),
            Head::Whole(None) => copy(pass, &|spec| norm(spec) || is_head(spec)),
            Head::Tied(_) if self.small.is_none() => copy(pass, &|spec| norm(spec) || is_head(spec)),
            Head::Whole(Some(map)) => {
                copy(pass, &norm)?;
                let mut biases = Vec::new();
                let scale = factor(ends.final_norm.is_none());
                pass.each_head(ends, false, |pass, part, bias| {
                    let (part, bias) = map.rows(gpu, part, bias)?;
                    biases.extend(bias.into_iter().flatten().map(|bias| bias / config.logit_scale));
                    let values: Vec<f32> = gpu.download(&part)?.into_iter().map(|value| value / scale).collect();
                    pass.writer.write(&names.head(), &values)
                })?;
                if biases.is_empty() { Ok(()) } else { pass.writer.write(&names.head_bias(), &biases) }
            }
            Head::Tied(weights) => {
                let gain = if self.coordinates.is_some() { config.stock_norm_weight(self.stored_width) } else { 1.0 };
                pass.write_tied_end(weights, gain)
            }
        }
    }
}
