//! A map of keys that is taken apart: what is left was not understood.

use serde_json::{Map, Value};

use crate::base::{Error, GIB, Result};

/// The most names a warning lists.
const LISTED_MAX: usize = 12;
/// The most a value in GiB may be; beyond is a slip of the pen.
const GIB_MAX: f64 = 1e6;

/// Keys and their values.
pub(super) struct Keys(Map<String, Value>);

impl Keys {
    pub(super) fn new(map: Map<String, Value>) -> Self {
        Self(map)
    }

    /// Those of these names that are there.
    pub(super) fn present<'a>(&self, names: &[&'a str]) -> Vec<&'a str> {
        names.iter().copied().filter(|name| self.0.contains_key(*name)).collect()
    }

    /// The names that nobody has taken.
    pub(super) fn rest(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// Takes a key; one without a value counts as missing.
    fn take(&mut self, key: &str) -> Option<Value> {
        self.0.remove(key).filter(|value| !value.is_null())
    }

    /// Takes a key whatever its value; whether it was there and had one.
    pub(super) fn drop(&mut self, key: &str) -> bool {
        self.take(key).is_some()
    }

    /// A section: keys below a key.
    pub(super) fn section(&mut self, key: &str) -> Result<Option<Self>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self(map))),
            Some(other) => Err(refused(key, &other, "write keys below it")),
        }
    }

    /// A truth, in YAML's old spellings too.
    pub(super) fn truth(&mut self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let word = value.as_str().map(str::to_lowercase);
        match (&value, word.as_deref()) {
            (Value::Bool(truth), _) => Ok(Some(*truth)),
            (_, Some("true" | "yes" | "on")) => Ok(Some(true)),
            (_, Some("false" | "no" | "off")) => Ok(Some(false)),
            _ => Err(refused(key, &value, "write true or false")),
        }
    }

    /// A number in this range.
    pub(super) fn number(&mut self, key: &str, min: f64, max: f64) -> Result<Option<f64>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
        match number {
            Some(number) if (min..=max).contains(&number) => Ok(Some(number)),
            _ => Err(refused(key, &value, &format!("write a number from {min} to {max}"))),
        }
    }

    /// A size in GiB; bytes.
    pub(super) fn gib(&mut self, key: &str) -> Result<Option<u64>> {
        let gib = self.number(key, 0.0, GIB_MAX)?;
        Ok(gib.map(|gib| (gib * GIB as f64) as u64))
    }

    /// A word, or a number as it was written.
    pub(super) fn text(&mut self, key: &str) -> Result<Option<String>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(other) => Err(refused(key, &other, "write a word")),
        }
    }

    /// A list of words, or words with commas between.
    pub(super) fn list(&mut self, key: &str) -> Result<Option<Vec<String>>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let words = match &value {
            Value::String(text) => Some(text.split(',').map(str::to_string).collect::<Vec<_>>()),
            Value::Array(list) => {
                list.iter().map(|item| item.as_str().map(str::to_string)).collect()
            }
            _ => None,
        };
        let words = words.ok_or_else(|| refused(key, &value, "write a list of names"))?;
        let words = words.iter().map(|word| word.trim().to_string());
        Ok(Some(words.filter(|word| !word.is_empty()).collect()))
    }

    /// Takes what only needs a remark: of each of these keys that is set, its remark.
    pub(super) fn remarks(&mut self, table: &[(&str, &str)], warnings: &mut Vec<String>) {
        for (key, remark) in table {
            let is_set = self.take(key).is_some_and(|value| value != Value::Bool(false));
            if is_set {
                warnings.push(format!("{key}: {remark}"));
            }
        }
    }
}

/// Names in a sentence, the first dozen.
pub(super) fn listed(names: &[&str]) -> String {
    let mut text = names.iter().take(LISTED_MAX).copied().collect::<Vec<_>>().join(", ");
    if let Some(more) = names.len().checked_sub(LISTED_MAX).filter(|more| *more > 0) {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

fn refused(key: &str, value: &Value, expected: &str) -> Error {
    let shown: String = value.to_string().chars().take(80).collect();
    Error::invalid(key, shown, expected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn keys(value: Value) -> Keys {
        Keys::new(value.as_object().unwrap().clone())
    }

    #[test]
    fn values_read_in_the_spellings_people_use() {
        let mut keys = keys(json!({
            "a": "yes", "b": false, "c": "4.5", "d": 2, "e": "x, y,", "f": ["x"], "g": null
        }));
        assert_eq!(keys.truth("a").ok(), Some(Some(true)));
        assert_eq!(keys.truth("b").ok(), Some(Some(false)));
        assert_eq!(keys.number("c", 0.0, 9.0).ok(), Some(Some(4.5)));
        assert_eq!(keys.gib("d").ok(), Some(Some(2 * GIB)));
        assert_eq!(keys.list("e").unwrap().unwrap(), ["x", "y"]);
        assert_eq!(keys.list("f").unwrap().unwrap(), ["x"]);
        assert_eq!(keys.text("g").ok(), Some(None));
        assert!(keys.rest().is_empty());
    }

    #[test]
    fn values_out_of_range_are_refused_with_key_value_and_range() {
        let mut keys = keys(json!({"a": "maybe", "b": -1, "c": [1], "d": "1e400", "e": 3}));
        let error = keys.truth("a").unwrap_err().to_string();
        assert_eq!(error, "a: '\"maybe\"' is not accepted; write true or false");
        assert!(keys.gib("b").is_err() && keys.list("c").is_err());
        assert!(keys.gib("d").is_err() && keys.section("e").is_err());
    }
}
