//! Rotary position embeddings as config.json states them: frequencies, their scaling, and the table that the kernel
//! reads.

use std::{f64::consts::TAU, path::Path};

use serde_json::{Map, Value};

use super::{
    architecture::{Architecture, Position, RotaryPart},
    fields::{MAX_POSITIONS, brief},
};
use crate::{
    error::{Error, Result},
    json::is_falsy,
};

/// The angles of one model: the pair i of each head turns by `position · inverse_frequencies[i]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// One for each pair of coordinates; 2 · pairs ≤ head_dim.
    pub inverse_frequencies: Vec<f32>,
    /// What cosines and sines are multiplied by (yarn's attention factor).
    pub attention_factor: f32,
    /// The base of the frequencies before they were scaled.
    pub theta: f64,
    pub scaling: Scaling,
    /// Whether longer sequences than `max_position_embeddings` would have other frequencies.
    pub dynamic: bool,
    /// What the tokens of longer sequences turn by instead (LongRoPE).
    pub long: Option<Long>,
}

/// The angles of sequences of more than `original` tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Long {
    /// As those of shorter ones.
    pub inverse_frequencies: Vec<f32>,
    pub original: usize,
    /// What divides each frequency of shorter ones, and of longer ones.
    pub factors: [Vec<f32>; 2],
}

/// How the frequencies were scaled, for formats that state the rule instead of the frequencies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scaling {
    None,
    /// Every frequency divided by the factor.
    Linear {
        factor: f64,
    },
    /// YaRN with its own ramp: from 32 turns within `original` positions to one.
    Yarn {
        factor: f64,
        original: f64,
    },
    /// The same, but that the ramp begins and ends between two pairs, where others have it rounded to whole ones.
    YarnBetween {
        factor: f64,
        original: f64,
        ends: [f64; 2],
    },
    /// By a rule that only the frequencies tell.
    Other,
}

impl Rope {
    /// The angles theta^(−2i/dim) of `dim` coordinates.
    pub fn plain(dim: usize, theta: f64) -> Self {
        let inverse_frequencies = plain(theta, dim);
        Self { inverse_frequencies, attention_factor: 1.0, theta, scaling: Scaling::None, dynamic: false, long: None }
    }

    /// Reads `rope_parameters` (or the older `rope_scaling` with `rope_theta` beside it, which counts more) and the
    /// part of each head that turns.
    ///
    /// # Errors
    /// [`Error::UnsupportedField`] for scalings that are not implemented; [`Error::BadFile`] for numbers that make no
    /// sense.
    pub fn from_fields(
        fields: &Map<String, Value>,
        path: &Path,
        architecture: &Architecture,
        head_dim: usize,
        max_positions: usize,
    ) -> Result<Self> {
        let default_theta = match architecture.attention.position {
            Position::Rope { theta, .. } => theta,
            Position::Learned { .. } | Position::None => 10000.0,
        };
        let empty = Map::new();
        let numbers = Numbers::new(fields, path, &empty)?;
        let theta = numbers.either("rope_theta", architecture.fields.rotary.0)?.unwrap_or(default_theta);
        let kind = numbers.kind(architecture)?;
        let partial = numbers.partial(architecture, kind)?;
        let dim = (head_dim as f64 * partial) as usize;
        let pairs = dim.div_ceil(2);
        if !(0.0..=1.0).contains(&partial) || 2 * pairs > head_dim || theta <= 0.0 {
            return Err(Error::bad_file(
                path,
                format!("rotary embeddings over {partial} of heads of {head_dim} with theta {theta} make no pairs"),
            ));
        }
        let plain = plain(theta, dim);
        let (mut attention_factor, mut scaling, mut long) = (1.0, Scaling::None, None);
        let long_kind = architecture.attention.longrope.contains(&kind);
        let inverse_frequencies: Vec<f32> = match if long_kind { "longrope" } else { kind } {
            "dynamic" => numbers.dynamic(dim, theta, max_positions)?,
            "linear" => {
                let factor = numbers.required("factor")?;
                scaling = Scaling::Linear { factor };
                plain.iter().map(|frequency| frequency / factor as f32).collect()
            }
            "llama3" => {
                scaling = Scaling::Other;
                numbers.llama3(&plain, max_positions)?
            }
            "yarn" => {
                let frequencies;
                (frequencies, attention_factor, scaling) = numbers.yarn(&plain, dim, theta, max_positions)?;
                frequencies
            }
            "longrope" => {
                let frequencies;
                (frequencies, long, attention_factor) = numbers.longrope(&plain, architecture, max_positions)?;
                scaling = Scaling::Other;
                frequencies
            }
            _ => plain,
        };
        let attention_factor = attention_factor as f32;
        let longer = long.iter().flat_map(|long: &Long| &long.inverse_frequencies);
        if !inverse_frequencies.iter().chain(longer).chain([&attention_factor]).all(|number| number.is_finite()) {
            return Err(Error::bad_file(
                path,
                format!(
                    "{}: theta {theta} and the numbers of rope_type {kind:?} make angles that are not finite",
                    numbers.name
                ),
            ));
        }
        Ok(Self { inverse_frequencies, attention_factor, theta, scaling, dynamic: kind == "dynamic", long })
    }

    /// Whether `max_position_embeddings` has, or may have, a part in the frequencies.
    pub fn knows_length(&self) -> bool {
        self.dynamic || !matches!(self.scaling, Scaling::None | Scaling::Linear { .. })
    }

    /// Rows of (cos, sin) of each pair for the positions below `positions`: `[positions, 2 · pairs]`. Where longer
    /// sequences turn by other angles, their rows come after those of the original length.
    ///
    /// The angle is rounded to f32 before its cosine is taken, as models were trained with.
    pub fn table(&self, positions: usize) -> Vec<f32> {
        let rows = |frequencies: &[f32], count: usize| -> Vec<f32> {
            let factor = f64::from(self.attention_factor);
            let angles = (0..count).flat_map(|position| {
                frequencies.iter().flat_map(move |&frequency| {
                    let (sin, cos) = f64::from(position as f32 * frequency).sin_cos();
                    [(cos * factor) as f32, (sin * factor) as f32]
                })
            });
            angles.collect()
        };
        match &self.long {
            Some(long) if positions > long.original => {
                [rows(&self.inverse_frequencies, long.original), rows(&long.inverse_frequencies, positions)].concat()
            }
            _ => rows(&self.inverse_frequencies, positions),
        }
    }

    /// How many rows [`Rope::table`] has.
    pub fn rows(&self, positions: usize) -> usize {
        positions + self.first_row(positions)
    }

    /// The row of position 0 in the table for sequences of this length.
    pub fn first_row(&self, length: usize) -> usize {
        self.long.as_ref().filter(|long| length > long.original).map_or(0, |long| long.original)
    }

    /// The frequencies for sequences of this length.
    pub fn frequencies(&self, length: usize) -> &[f32] {
        let long = self.long.as_ref().filter(|long| length > long.original);
        long.map_or(&self.inverse_frequencies, |long| &long.inverse_frequencies)
    }
}

/// What YaRN multiplies the frequency of a pair by, with a ramp between these pairs.
pub fn yarn_share(pair: usize, [first, last]: [f64; 2], factor: f64) -> f64 {
    let stretched = ((pair as f64 - first) / (last - first).max(0.001)).clamp(0.0, 1.0);
    stretched / factor + (1.0 - stretched)
}

/// Frequencies that are not scaled: in f32 and in this order, because models were trained with frequencies rounded so.
fn plain(theta: f64, dim: usize) -> Vec<f32> {
    (0..dim).step_by(2).map(|coordinate| 1.0 / theta.powf(f64::from(coordinate as f32 / dim as f32)) as f32).collect()
}

/// The section of a config.json on rotary embeddings, and the fields beside it.
struct Numbers<'a> {
    section: &'a Map<String, Value>,
    fields: &'a Map<String, Value>,
    path: &'a Path,
    /// What the section is called.
    name: &'a str,
}

impl<'a> Numbers<'a> {
    /// Finds the section; it is `empty` if there is none.
    fn new(fields: &'a Map<String, Value>, path: &'a Path, empty: &'a Map<String, Value>) -> Result<Self> {
        let given = |value: &&Value| !is_falsy(value);
        let section = ["rope_scaling", "rope_parameters"]
            .into_iter()
            .find_map(|name| fields.get(name).filter(given).map(|value| (name, value)));
        let (name, section) = match section {
            None => ("rope_parameters", empty),
            Some((name, Value::Object(section))) => (name, section),
            Some((name, _)) => return Err(Error::bad_file(path, format!("{name}: expected an object"))),
        };
        if let Some((kind, nested)) =
            section.iter().find(|(kind, value)| kind.ends_with("_attention") && value.is_object())
        {
            return Err(Error::UnsupportedField {
                field: format!("{name}.{kind}"),
                value: brief(nested),
                path: path.into(),
                reason: "rotary embeddings that differ by the type of the layer are not implemented".into(),
            });
        }
        Ok(Self { section, fields, path, name })
    }

    /// How frequencies are scaled, in one of the ways that the architecture has.
    fn kind(&self, architecture: &Architecture) -> Result<&'a str> {
        let Self { section, name, path, .. } = *self;
        let kind =
            ["rope_type", "type"].into_iter().find_map(|name| section.get(name).filter(|value| !value.is_null()));
        let kind = match kind.map(|kind| kind.as_str().ok_or(kind)) {
            None => "default",
            Some(Ok(kind)) => kind,
            Some(Err(other)) => {
                return Err(Error::bad_file(path, format!("{name}.rope_type: expected a string, found {other}")));
            }
        };
        let attention = &architecture.attention;
        if attention.longrope.contains(&kind) || attention.rope_types.contains(&kind) {
            return Ok(kind);
        }
        Err(Error::UnsupportedField {
            field: format!("{name}.rope_type"),
            value: format!("{kind:?}"),
            path: path.into(),
            reason: format!("known for {}: {}", architecture.model_type, attention.rope_types.join(", ")),
        })
    }

    /// The share of the coordinates of a head that turn.
    fn partial(&self, architecture: &Architecture, kind: &str) -> Result<f64> {
        let given = || self.either("partial_rotary_factor", architecture.fields.rotary.1);
        let share = match architecture.attention.position {
            Position::Rope { part: RotaryPart::Share(default), .. } => return Ok(given()?.unwrap_or(default)),
            // Not read where nothing is scaled: it may be anything.
            _ if kind == "default" => 1.0,
            _ => given()?.unwrap_or(1.0),
        };
        if share != 1.0 {
            return Err(Error::UnsupportedField {
                field: "partial_rotary_factor".into(),
                value: share.to_string(),
                path: self.path.into(),
                reason: format!("this architecture turns whole heads, which {kind} scaling of a part does not fit"),
            });
        }
        Ok(share)
    }

    fn number(&self, name: &str, value: Option<&Value>) -> Result<Option<f64>> {
        match value {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                match value.as_f64().or(value.as_bool().map(f64::from)).filter(|number| number.is_finite()) {
                    Some(number) => Ok(Some(number)),
                    None => {
                        Err(Error::bad_file(self.path, format!("{name}: expected a number, found {}", brief(value))))
                    }
                }
            }
        }
    }

    /// What the section gives, or what stands `beside` it.
    fn either(&self, name: &str, beside: &str) -> Result<Option<f64>> {
        match self.optional(name)? {
            Some(number) => Ok(Some(number)),
            None => self.number(beside, self.fields.get(beside)),
        }
    }

    fn optional(&self, name: &str) -> Result<Option<f64>> {
        self.number(name, self.section.get(name))
    }

    fn required(&self, name: &str) -> Result<f64> {
        match self.optional(name)? {
            Some(number) if number > 0.0 => Ok(number),
            _ => Err(Error::bad_file(self.path, format!("{}.{name}: expected a positive number", self.name))),
        }
    }

    fn divisor(&self, name: &str) -> Result<f64> {
        match self.optional(name)? {
            Some(number) if number != 0.0 => Ok(number),
            _ => Err(Error::bad_file(self.path, format!("{}.{name}: expected another number than 0", self.name))),
        }
    }

    /// The length that the model was trained for before its context was extended; beside the section it counts more
    /// than in it.
    fn original(&self, max_positions: usize) -> Result<f64> {
        const NAME: &str = "original_max_position_embeddings";
        let given = self.number(NAME, self.fields.get(NAME))?.or(self.optional(NAME)?);
        Ok(given.filter(|&original| original >= 1.0).unwrap_or(max_positions as f64))
    }

    /// Up to `max_positions`, dynamic NTK scaling stretches the base by 1, as far as f64 can tell.
    fn dynamic(&self, dim: usize, theta: f64, max_positions: usize) -> Result<Vec<f32>> {
        let (factor, most) = (self.required("factor")?, max_positions as f64);
        if dim <= 2 {
            return Err(Error::bad_file(
                self.path,
                format!("{}: dynamic scaling of {dim} coordinates is not defined", self.name),
            ));
        }
        let stretch = factor * most / most - (factor - 1.0);
        let theta = theta * stretch.powf(dim as f64 / (dim - 2) as f64);
        Ok(plain(theta, dim))
    }

    /// Long waves are stretched by `factor`, short ones kept, those between blended (Llama 3.1).
    fn llama3(&self, plain: &[f32], max_positions: usize) -> Result<Vec<f32>> {
        let (factor, low, high) =
            (self.required("factor")?, self.divisor("low_freq_factor")?, self.divisor("high_freq_factor")?);
        let original = self.original(max_positions)?;
        let (factor, low, high, original) = (factor as f32, low as f32, high as f32, original as f32);
        let scale = |&frequency: &f32| {
            let wavelength = TAU as f32 / frequency;
            // In this order, which counts where the bounds are the wrong way round.
            if wavelength > original / low {
                frequency / factor
            } else if wavelength < original / high {
                frequency
            } else {
                let smooth = (original / wavelength - low) / (high - low);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        };
        Ok(plain.iter().map(scale).collect())
    }

    /// LongRoPE (arXiv 2402.13753): a factor for each pair, one list for sequences up to the original length and one
    /// for longer ones; cosines and sines are multiplied by sqrt(1 + ln(factor) / ln(original)).
    fn longrope(
        &self,
        plain: &[f32],
        architecture: &Architecture,
        max_positions: usize,
    ) -> Result<(Vec<f32>, Option<Long>, f64)> {
        const NAME: &str = "original_max_position_embeddings";
        // The field of the class counts, which is never without a value, whatever the section says.
        let original =
            self.number(NAME, self.fields.get(NAME))?.unwrap_or(architecture.defaults.max_position_embeddings as f64);
        if !(original >= 1.0 && original.fract() == 0.0 && original <= MAX_POSITIONS as f64) {
            return Err(Error::bad_file(self.path, format!("{NAME}: expected a whole number, found {original}")));
        }
        let by = |name: &str| {
            let factors = self.section.get(name).and_then(Value::as_array);
            let factors = factors.filter(|factors| factors.len() == plain.len());
            let positive = |factor: &Value| factor.as_f64().map(|factor| factor as f32).filter(|factor| *factor > 0.0);
            let factors = factors.and_then(|all| all.iter().map(positive).collect::<Option<Vec<f32>>>());
            factors.ok_or_else(|| {
                let expected = format!("expected a positive number for each of {} pairs", plain.len());
                Error::bad_file(self.path, format!("{}.{name}: {expected}", self.name))
            })
        };
        let divided = |factors: &[f32]| -> Vec<f32> {
            plain.iter().zip(factors).map(|(frequency, factor)| 1.0 / (factor * (1.0 / frequency))).collect()
        };
        let factor = match self.optional("factor")? {
            Some(factor) => factor,
            None => max_positions as f64 / original,
        };
        let attention_factor = match self.optional("attention_factor")? {
            Some(given) => given,
            None if factor <= 1.0 => 1.0,
            None => (1.0 + factor.ln() / original.ln()).sqrt(),
        };
        let factors = [by("short_factor")?, by("long_factor")?];
        let [short, inverse_frequencies] = [divided(&factors[0]), divided(&factors[1])];
        Ok((short, Some(Long { inverse_frequencies, original: original as usize, factors }), attention_factor))
    }

    /// YaRN (arXiv 2309.00071): pairs that turn often within the original length are kept, those that turn less than
    /// once stretched, a ramp between; cosines and sines are multiplied by 0.1 ln(factor) + 1.
    fn yarn(&self, plain: &[f32], dim: usize, theta: f64, max_positions: usize) -> Result<(Vec<f32>, f64, Scaling)> {
        if !dim.is_multiple_of(2) {
            let reason = format!("{}: yarn of {dim} coordinates, an odd number, is not defined", self.name);
            return Err(Error::bad_file(self.path, reason));
        }
        let dim = dim as f64;
        let original = self.original(max_positions)?;
        let factor = match self.optional("factor")? {
            Some(_) => self.required("factor")?,
            None => max_positions as f64 / original,
        };
        let pair_of_turns = |turns: f64| dim * (original / (turns * TAU)).ln() / (2.0 * theta.ln());
        let beta = |name, default| Ok::<_, Error>(self.optional(name)?.filter(|&beta| beta != 0.0).unwrap_or(default));
        let (fast, slow) = (beta("beta_fast", 32.0)?, beta("beta_slow", 1.0)?);
        let (first, last) = (pair_of_turns(fast), pair_of_turns(slow));
        let within = |first: f64, last: f64| [first.max(0.0), last.min(dim - 1.0)];
        let frequencies = |[first, last]: [f64; 2]| -> Vec<f32> {
            let last = if first == last { last + 0.001 } else { last };
            let ramped = |(pair, frequency): (usize, &f32)| {
                let kept = 1.0 - ((pair as f32 - first as f32) / (last - first) as f32).clamp(0.0, 1.0);
                frequency / factor as f32 * (1.0 - kept) + frequency * kept
            };
            plain.iter().enumerate().map(ramped).collect()
        };
        let (between, rounded) = (within(first, last), frequencies(within(first.floor(), last.ceil())));
        let truncate = self.section.get("truncate").is_none_or(|value| !is_falsy(value));
        let own = if truncate { rounded.clone() } else { frequencies(between) };
        let magnitude = |scale: f64| {
            if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 }
        };
        let attention_factor =
            match (self.optional("attention_factor")?, self.optional("mscale")?, self.optional("mscale_all_dim")?) {
                (Some(factor), _, _) => factor,
                (None, Some(one), Some(all)) if one != 0.0 && all != 0.0 => magnitude(one) / magnitude(all),
                _ => magnitude(1.0),
            };
        let scaling = match (fast, slow) {
            (32.0, 1.0) if own == rounded => Scaling::Yarn { factor, original },
            (32.0, 1.0) => Scaling::YarnBetween { factor, original, ends: between },
            _ => Scaling::Other,
        };
        Ok((own, attention_factor, scaling))
    }
}
