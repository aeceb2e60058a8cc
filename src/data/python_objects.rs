//! Values that Python prints in a way of their own, or that combine with others as nothing here does.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use minijinja::{
    Error, ErrorKind, State, Value,
    value::{Enumerator, Object, ObjectRepr, Tuple, from_args},
};

/// Whole numbers one after the other.
#[derive(Debug)]
pub struct Range {
    start: i64,
    stop: i64,
    step: i64,
}

/// Of how many numbers a range may be, as in Jinja's sandbox.
const LONGEST: i128 = 100_000;

impl Range {
    /// The function `range`.
    ///
    /// # Errors
    /// As in Python for a step of 0, and as in Jinja's sandbox for too many numbers.
    pub fn value(first: i64, stop: Option<i64>, step: Option<i64>) -> Result<Value, Error> {
        let (start, stop) = stop.map_or((0, first), |stop| (first, stop));
        let this = Self { start, stop, step: step.unwrap_or(1) };
        match this.step {
            0 => Err(invalid("range() arg 3 must not be zero")),
            _ if this.len() > LONGEST => Err(invalid(format!("a range of more than {LONGEST} numbers"))),
            _ => Ok(Value::from_object(this)),
        }
    }

    fn len(&self) -> i128 {
        let (length, step) = (i128::from(self.stop) - i128::from(self.start), i128::from(self.step));
        (length.div_euclid(step) + i128::from(length.rem_euclid(step) != 0) * step.signum()).max(0)
    }
}

impl Object for Range {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.len() as usize)
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let (index, length) = (i128::from(key.as_i64()?), self.len());
        let index = if index < 0 { index + length } else { index };
        (0..length).contains(&index).then(|| Value::from(self.start + index as i64 * self.step))
    }

    fn render(self: &Arc<Self>, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start, stop, step } = **self;
        match step {
            1 => write!(out, "range({start}, {stop})"),
            _ => write!(out, "range({start}, {stop}, {step})"),
        }
    }
}

/// The keys, values or items of a dictionary.
#[derive(Debug)]
pub struct View {
    name: &'static str,
    values: Vec<Value>,
}

impl View {
    /// The method `keys`, `values` or `items` of a dictionary; `None` if it is another.
    pub fn of(dictionary: &Value, method: &str) -> Option<Value> {
        let item = |key: Value| dictionary.get_item(&key).map(|value| (key, value)).ok();
        let items = dictionary.try_iter().ok()?.filter_map(item);
        let pair = |(key, value)| Value::from(Tuple::from([key, value]));
        let (name, values) = match method {
            "keys" => ("dict_keys", items.map(|(key, _)| key).collect()),
            "values" => ("dict_values", items.map(|(_, value)| value).collect()),
            "items" => ("dict_items", items.map(pair).collect()),
            _ => return None,
        };
        Some(Value::from_object(Self { name, values }))
    }
}

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.values.clone())
    }

    fn render(self: &Arc<Self>, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}(", self.name)?;
        out.debug_list().entries(&self.values).finish()?;
        out.write_str(")")
    }
}

/// A text that counts as markup. In Jinja, whatever is added to it is escaped: here it can be printed, and no string
/// operation takes it.
#[derive(Debug)]
pub struct Markup(String);

impl Markup {
    /// The filter `safe`.
    pub fn safe(value: &Value) -> Value {
        Value::from_object(Self(value.to_string()))
    }

    /// The filter `e`, which leaves markup as it is.
    pub fn escaped(value: &Value) -> Value {
        match value.downcast_object_ref::<Self>() {
            Some(_) => value.clone(),
            None => Self::forced(value),
        }
    }

    /// The filter `forceescape`.
    pub fn forced(value: &Value) -> Value {
        let mut text = value.to_string();
        for (char, entity) in [("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("'", "&#39;"), ("\"", "&#34;")] {
            text = text.replace(char, entity);
        }
        Value::from_object(Self(text))
    }
}

impl Object for Markup {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn is_true(self: &Arc<Self>) -> bool {
        !self.0.is_empty()
    }

    fn render(self: &Arc<Self>, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// What goes through its values over and over.
#[derive(Debug)]
pub struct Cycler {
    values: Vec<Value>,
    at: AtomicUsize,
}

impl Cycler {
    /// The function `cycler`.
    ///
    /// # Errors
    /// As in Jinja without values.
    pub fn value(values: Vec<Value>) -> Result<Value, Error> {
        match values.is_empty() {
            true => Err(invalid("at least one item has to be provided")),
            false => Ok(Value::from_object(Self { values, at: AtomicUsize::new(0) })),
        }
    }

    fn current(&self) -> Value {
        self.values[self.at.load(Ordering::Relaxed)].clone()
    }
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        (key.as_str() == Some("current")).then(|| self.current())
    }

    fn call_method(self: &Arc<Self>, _: &mut State<'_, '_>, name: &str, args: &[Value]) -> Result<Value, Error> {
        let () = from_args(args)?;
        match name {
            "next" => {
                let current = self.current();
                let next = (self.at.load(Ordering::Relaxed) + 1) % self.values.len();
                self.at.store(next, Ordering::Relaxed);
                Ok(current)
            }
            "reset" => {
                self.at.store(0, Ordering::Relaxed);
                Ok(Value::from(()))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

pub(super) fn invalid(reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.into())
}
