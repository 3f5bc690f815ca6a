//! SD.Next's pair of watermarks: fractions of the card, or bytes.

use crate::base::{Error, Result, format_bytes, parse_bytes};
use crate::plan::Retention;

use super::limit::Card;

/// What an old value in GB becomes, as in SD.Next's source.
const OLD_GB_BECOMES: f64 = 0.75;
/// What a pair becomes that cannot be, as in SD.Next's source.
const INVALID_BECOMES: (f64, f64) = (0.2, 0.7);
/// A high watermark below this is told of, as in SD.Next's source.
const HIGH_BYTES_LOW: u64 = 3_000_000_000;

/// One watermark.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mark {
    /// Of the whole card, 0 to 1.
    Fraction(f64),
    /// So many bytes.
    Bytes(u64),
}

/// Up to `low` nothing is made to leave; weights take at most `high`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Watermarks {
    /// SD.Next's `diffusers_offload_min_gpu_memory`.
    pub low: Mark,
    /// SD.Next's `diffusers_offload_max_gpu_memory`.
    pub high: Mark,
}

impl Mark {
    /// Reads a fraction (`0.6`) or a size with its unit (`6GB`).
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for anything else, a number above 1 among it.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let expected = "write a fraction of the card from 0 to 1, or a size like 6GB";
        match text.trim().parse::<f64>() {
            Ok(fraction) if (0.0..=1.0).contains(&fraction) => Ok(Self::Fraction(fraction)),
            Ok(_) => Err(Error::invalid(name, text, expected)),
            Err(_) => parse_bytes(text)
                .map(Self::Bytes)
                .map_err(|why| Error::invalid(name, text, format!("{expected} ({why})"))),
        }
    }

    /// Bytes on this card.
    #[must_use]
    pub fn bytes(self, card: &Card) -> u64 {
        match self {
            Self::Fraction(fraction) => card.fraction(fraction),
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl Watermarks {
    /// A pair of fractions.
    #[must_use]
    pub const fn of_fractions(low: f64, high: f64) -> Self {
        Self { low: Mark::Fraction(low), high: Mark::Fraction(high) }
    }

    /// Reads SD.Next's values as its source does: a value above 1 is GB of an older version and
    /// becomes 0.75; a pair that cannot be becomes 0.2 and 0.7. Each change is a warning.
    #[must_use]
    pub fn of_sdnext(low: f64, high: f64, warnings: &mut Vec<String>) -> Self {
        let mut fraction = |key: &str, value: f64| {
            if value <= 1.0 {
                return value;
            }
            warnings.push(format!(
                "{key}: {value} is a value in GB of an older version; {OLD_GB_BECOMES} of the \
                 card is taken"
            ));
            OLD_GB_BECOMES
        };
        let low = fraction("diffusers_offload_min_gpu_memory", low);
        let high = fraction("diffusers_offload_max_gpu_memory", high);
        if low >= 0.0 && low < high {
            return Self::of_fractions(low, high);
        }
        let (new_low, new_high) = INVALID_BECOMES;
        warnings.push(format!(
            "diffusers_offload_min_gpu_memory {low} and diffusers_offload_max_gpu_memory {high} \
             are no pair: the first must be below the second; {new_low} and {new_high} are taken"
        ));
        Self::of_fractions(new_low, new_high)
    }

    /// As the planner takes it.
    #[must_use]
    pub fn retention(&self, card: &Card) -> Retention {
        let high_bytes = self.high.bytes(card);
        Retention::Watermarks { low_bytes: self.low.bytes(card).min(high_bytes), high_bytes }
    }

    /// What is doubtful about the pair on this card.
    #[must_use]
    pub fn doubt(&self, card: &Card) -> Option<String> {
        let high_bytes = self.high.bytes(card);
        (high_bytes < HIGH_BYTES_LOW).then(|| {
            format!(
                "the high watermark leaves weights {}, less than {}",
                format_bytes(high_bytes),
                format_bytes(HIGH_BYTES_LOW)
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_in_gb_and_impossible_pairs_become_what_the_source_makes_of_them() {
        let mut warnings = Vec::new();
        let fine = Watermarks::of_sdnext(0.2, 0.6, &mut warnings);
        assert_eq!((fine, warnings.len()), (Watermarks::of_fractions(0.2, 0.6), 0));
        let old = Watermarks::of_sdnext(0.25, 12.0, &mut warnings);
        assert_eq!((old, warnings.len()), (Watermarks::of_fractions(0.25, 0.75), 1));
        let both_old = Watermarks::of_sdnext(4.0, 12.0, &mut warnings);
        assert_eq!((both_old, warnings.len()), (Watermarks::of_fractions(0.2, 0.7), 4));
        let nan = Watermarks::of_sdnext(f64::NAN, 0.5, &mut warnings);
        assert_eq!(nan.low, Mark::Fraction(0.2));
    }

    #[test]
    fn marks_read_as_fractions_or_sizes() {
        assert_eq!(Mark::parse("low", "0.6").ok(), Some(Mark::Fraction(0.6)));
        assert_eq!(Mark::parse("low", "6GB").ok(), Some(Mark::Bytes(6_000_000_000)));
        assert!(Mark::parse("low", "6").is_err() && Mark::parse("low", "NaN").is_err());
    }

    #[test]
    fn a_high_mark_of_less_than_3_gb_is_told_of() {
        let marks = Watermarks::of_fractions(0.0, 0.6);
        assert!(marks.doubt(&Card::of(4_000_000_000)).is_some());
        assert!(marks.doubt(&Card::of(12_000_000_000)).is_none());
    }
}
