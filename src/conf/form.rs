//! The forms a value may take: how each reads, prints, and says what it allows. A row of the
//! table names one; numbers that PyTorch reads sloppily (`64.9`, `-1`, `1e-3x`, `nan`) are
//! refused here.

use super::suggest;
use super::table::Settings;
use super::tokens::Raw;

/// One kind of value.
pub(super) trait Form {
    /// What a setting of this form holds.
    type Value;
    /// The name of the form in the reference.
    fn type_name(&self) -> &'static str;
    /// The allowed range in words.
    fn allowed(&self) -> String;
    /// Reads a value; the error names it and says what is wrong with it.
    fn read(&self, raw: &Raw<'_>) -> Result<Self::Value, String>;
    /// Prints a value so that `read` gives it back.
    fn write(&self, value: &Self::Value) -> String;
    /// Range rules, apart from `read` because some depend on other settings.
    fn check(&self, _value: &Self::Value, _all: &Settings) -> Result<(), String> {
        Ok(())
    }
}

/// A value that may be absent, and the word printed when it is.
pub(super) struct Optional<F>(pub(super) F, pub(super) &'static str);

impl<F: Form> Form for Optional<F> {
    type Value = Option<F::Value>;

    fn type_name(&self) -> &'static str {
        self.0.type_name()
    }

    fn allowed(&self) -> String {
        self.0.allowed()
    }

    fn read(&self, raw: &Raw<'_>) -> Result<Self::Value, String> {
        self.0.read(raw).map(Some)
    }

    fn write(&self, value: &Self::Value) -> String {
        value.as_ref().map_or_else(|| self.1.to_owned(), |value| self.0.write(value))
    }

    fn check(&self, value: &Self::Value, all: &Settings) -> Result<(), String> {
        value.as_ref().map_or(Ok(()), |value| self.0.check(value, all))
    }
}

/// `True` or `False`.
pub(super) struct Flag;

impl Form for Flag {
    type Value = bool;

    fn type_name(&self) -> &'static str {
        "boolean"
    }

    fn allowed(&self) -> String {
        "True or False".into()
    }

    fn read(&self, raw: &Raw<'_>) -> Result<bool, String> {
        match raw.word()? {
            "True" => Ok(true),
            "False" => Ok(false),
            other => {
                let hint = suggest::hint(other, ["True", "False"]);
                Err(format!("'{other}' is not a boolean{hint}"))
            }
        }
    }

    fn write(&self, value: &bool) -> String {
        (if *value { "True" } else { "False" }).into()
    }
}

/// A number from 0 to 1, with or without its ends.
pub(super) struct Fraction {
    pub(super) ends: bool,
}

impl Form for Fraction {
    type Value = f64;

    fn type_name(&self) -> &'static str {
        "decimal number"
    }

    fn allowed(&self) -> String {
        (if self.ends { "0 to 1, both included" } else { "above 0 and below 1" }).into()
    }

    fn read(&self, raw: &Raw<'_>) -> Result<f64, String> {
        decimal(raw.word()?)
    }

    fn write(&self, value: &f64) -> String {
        value.to_string()
    }

    fn check(&self, value: &f64, _: &Settings) -> Result<(), String> {
        let inside = 0.0 < *value && *value < 1.0;
        let at_end = *value == 0.0 || *value == 1.0;
        if inside || (self.ends && at_end) {
            return Ok(());
        }
        Err(format!("'{value}' is out of range"))
    }
}

/// A number of threads that share pages evenly.
pub(super) struct Threads;

/// PyTorch's pool of page-touching threads has this many.
const THREAD_COUNT_MAX: u32 = 128;

impl Form for Threads {
    type Value = u32;

    fn type_name(&self) -> &'static str {
        "whole number"
    }

    fn allowed(&self) -> String {
        format!("a power of two, at most {THREAD_COUNT_MAX}")
    }

    fn read(&self, raw: &Raw<'_>) -> Result<u32, String> {
        let word = raw.word()?;
        u32::try_from(whole(word)?).map_err(|_| too_large(word))
    }

    fn write(&self, value: &u32) -> String {
        value.to_string()
    }

    fn check(&self, value: &u32, _: &Settings) -> Result<(), String> {
        if !value.is_power_of_two() {
            return Err(format!("'{value}' is not a power of two"));
        }
        if *value > THREAD_COUNT_MAX { Err(too_large(&value.to_string())) } else { Ok(()) }
    }
}

/// Digits and nothing else. PyTorch would read `64.9` as 64 and `-1` as 2^64 - 1.
pub(super) fn whole(word: &str) -> Result<u64, String> {
    if !is_digits(word) {
        return Err(format!("'{word}' is not a whole number"));
    }
    word.parse().map_err(|_| too_large(word))
}

pub(super) fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// A finite decimal number, all of the word. PyTorch would read `1e-3x` as 0.001.
pub(super) fn decimal(word: &str) -> Result<f64, String> {
    let plain = word.bytes().all(|b| matches!(b, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'));
    match word.parse::<f64>() {
        // Adding 0 turns -0 into 0, which prints without a sign.
        Ok(value) if plain && value.is_finite() => Ok(value + 0.0),
        Ok(_) if plain => Err(too_large(word)),
        _ => Err(format!("'{word}' is not a decimal number")),
    }
}

pub(super) fn too_large(word: &str) -> String {
    format!("'{word}' is too large")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_take_digits_only() {
        assert_eq!(whole("064"), Ok(64));
        for word in ["", "-1", "+5", "64.9", "6_4", "0x40", "٣", "99999999999999999999"] {
            assert!(whole(word).unwrap_err().contains(word), "{word}");
        }
    }

    #[test]
    fn decimal_numbers_are_finite_and_end_where_the_word_ends() {
        assert_eq!(decimal("1e-3"), Ok(0.001));
        assert_eq!(decimal("-0").map(f64::to_bits), Ok(0));
        for word in ["1e-3x", "nan", "inf", "-Infinity", "1e999", "0x1p-3", "", ".", "1_0"] {
            assert!(decimal(word).is_err(), "{word}");
        }
    }
}
