//! Address space reserved for each expandable segment. Where PyTorch warns and goes on
//! without the setting, reading fails here.

use crate::base::GIB;

use super::form::{Form, decimal, too_large};
use super::tokens::Raw;

/// How much address space an expandable segment reserves. Reserving costs no memory. However
/// large, it is cut to 9/8 of the device's memory when it is used.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Reserve {
    /// This fraction of the device's memory, above 0.
    Fraction(f64),
    /// This many bytes, above 0.
    Bytes(u64),
}

impl Reserve {
    /// What PyTorch reserves: the device's memory and an eighth more.
    pub const DEFAULT: Self = Self::Fraction(1.125);

    /// The address space in bytes on a device of `total_bytes`, cut to 9/8 of that.
    #[must_use]
    pub fn bytes_of(self, total_bytes: u64) -> u64 {
        let most = total_bytes.saturating_add(total_bytes / 8);
        match self {
            Self::Fraction(fraction) => ((total_bytes as f64 * fraction) as u64).min(most),
            Self::Bytes(bytes) => bytes.min(most),
        }
    }

    fn read(word: &str) -> Result<Self, String> {
        let gib_text = word.strip_suffix(['G', 'g']);
        let number = decimal(gib_text.unwrap_or(word)).map_err(|_| {
            format!("'{word}' is neither a fraction like 0.5 nor a size in GiB like 32G")
        })?;
        if number <= 0.0 {
            return Err(format!("'{word}' is not above 0"));
        }
        if gib_text.is_none() {
            return Ok(Self::Fraction(number));
        }
        // Exact: GiB is a power of two. Whole bytes, rounded down.
        let bytes = number * GIB as f64;
        if bytes >= u64::MAX as f64 {
            return Err(too_large(word));
        }
        if bytes < 1.0 {
            return Err(format!("'{word}' is less than a byte"));
        }
        Ok(Self::Bytes(bytes as u64))
    }

    fn write(self) -> String {
        match self {
            Self::Fraction(fraction) => fraction.to_string(),
            Self::Bytes(bytes) => format!("{}G", bytes as f64 / GIB as f64),
        }
    }
}

/// One reserve.
pub(super) struct ReserveForm;

impl Form for ReserveForm {
    type Value = Reserve;

    fn type_name(&self) -> &'static str {
        "fraction or GiB"
    }

    fn allowed(&self) -> String {
        "a fraction of device memory above 0 (0.5), or GiB above 0 with G behind (32G)".into()
    }

    fn read(&self, raw: &Raw<'_>) -> Result<Reserve, String> {
        Reserve::read(raw.word()?)
    }

    fn write(&self, value: &Reserve) -> String {
        value.write()
    }
}

/// A reserve for each named class of streams, in the order given.
pub(super) struct ReserveByClassForm;

impl Form for ReserveByClassForm {
    type Value = Vec<(String, Reserve)>;

    fn type_name(&self) -> &'static str {
        "list of class:reserve"
    }

    fn allowed(&self) -> String {
        "a list like [prefill:0.5,decode:32G], each class once".into()
    }

    fn read(&self, raw: &Raw<'_>) -> Result<Self::Value, String> {
        let Raw::List(items) = raw else {
            return Err("the value is not a list in '[' ']'".into());
        };
        let mut classes = Self::Value::with_capacity(items.len());
        for item in items {
            let name = item.name;
            let word = item.value.ok_or_else(|| format!("class '{name}' has no reserve"))?;
            if classes.iter().any(|(earlier, _)| earlier == name) {
                return Err(format!("class '{name}' is given twice"));
            }
            classes.push((name.to_owned(), Reserve::read(word)?));
        }
        Ok(classes)
    }

    fn write(&self, value: &Self::Value) -> String {
        let items: Vec<_> =
            value.iter().map(|(name, reserve)| format!("{name}:{}", reserve.write())).collect();
        if items.is_empty() { "none".into() } else { format!("[{}]", items.join(",")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserves_read_as_fractions_or_gibibytes() {
        assert_eq!(Reserve::read("0.5"), Ok(Reserve::Fraction(0.5)));
        assert_eq!(Reserve::read("32G"), Ok(Reserve::Bytes(32 * GIB)));
        assert_eq!(Reserve::read("0.5g"), Ok(Reserve::Bytes(GIB / 2)));
        for word in ["-1", "0", "0G", "32GB", "nan", "infG", "G", "1e-12G", "1e20G", "1e999"] {
            assert!(Reserve::read(word).unwrap_err().contains(word), "{word}");
        }
    }

    #[test]
    fn a_reserve_is_at_most_nine_eighths_of_the_device() {
        let total = 80 * GIB;
        assert_eq!(Reserve::DEFAULT.bytes_of(total), 90 * GIB);
        assert_eq!(Reserve::Fraction(0.5).bytes_of(total), 40 * GIB);
        assert_eq!(Reserve::Fraction(9.0).bytes_of(total), 90 * GIB);
        assert_eq!(Reserve::Bytes(32 * GIB).bytes_of(total), 32 * GIB);
    }

    #[test]
    fn odd_byte_counts_print_and_read_back_exactly() {
        let reserve = Reserve::read("0.1G").unwrap();
        assert_eq!(reserve, Reserve::Bytes(107_374_182));
        assert_eq!(Reserve::read(&reserve.write()), Ok(reserve));
    }
}
