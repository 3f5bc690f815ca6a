//! Sizes in bytes: reading, printing and rounding them without overflow.

/// 2^10 bytes.
pub const KIB: u64 = 1 << 10;
/// 2^20 bytes.
pub const MIB: u64 = 1 << 20;
/// 2^30 bytes.
pub const GIB: u64 = 1 << 30;

/// The suffixes a size may carry, longest first so that `MiB` is not read as `B`.
const UNITS: [(&str, u64); 9] = [
    ("KiB", KIB),
    ("MiB", MIB),
    ("GiB", GIB),
    ("TiB", 1 << 40),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
];

/// Rounds `bytes` up to a multiple of `align`; `None` on overflow or when `align` is 0.
///
/// ```
/// assert_eq!(riverbed::base::align_up(5, 4), Some(8));
/// assert_eq!(riverbed::base::align_up(u64::MAX, 4), None);
/// ```
#[must_use]
pub fn align_up(bytes: u64, align: u64) -> Option<u64> {
    bytes.checked_next_multiple_of(align.max(1)).filter(|_| align != 0)
}

/// Reads a size: `GB` is 10^9 bytes, `GiB` 2^30, a plain number bytes. Decimals are
/// allowed before a unit (`1.5GiB`), letter case matters for nothing.
///
/// # Errors
/// A sentence that says what is wrong and what is accepted.
///
/// ```
/// use riverbed::base::parse_bytes;
/// assert_eq!(parse_bytes("64MiB"), Ok(64 << 20));
/// assert_eq!(parse_bytes("1.5 GB"), Ok(1_500_000_000));
/// assert!(parse_bytes("12 parsecs").is_err());
/// ```
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let bad = |why: &str| {
        format!(
            "'{text}' is not a size: {why}; write bytes or a unit, like 67108864, 64MiB or 1.5GB"
        )
    };
    let trimmed = text.trim();
    let digits_end =
        trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = (&trimmed[..digits_end], trimmed[digits_end..].trim());
    let factor = if unit.is_empty() {
        1
    } else {
        UNITS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit))
            .map(|&(_, factor)| factor)
            .ok_or_else(|| bad(&format!("unknown unit '{unit}'")))?
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(|| bad("more than 2^64 bytes"));
    }
    let value: f64 = number.parse().map_err(|_| bad("it does not start with a number"))?;
    let bytes = value * factor as f64;
    if factor == 1 {
        return Err(bad("a fraction of a byte"));
    }
    if bytes >= u64::MAX as f64 {
        return Err(bad("more than 2^64 bytes"));
    }
    Ok(bytes as u64)
}

/// Reads a rate in bytes a second: a size with `/s` behind it (`12GB/s`).
///
/// # Errors
/// As [`parse_bytes`]; a rate of 0 is refused.
pub fn parse_bytes_per_second(text: &str) -> Result<u64, String> {
    let size = text
        .trim()
        .strip_suffix("/s")
        .ok_or_else(|| format!("'{text}' is not a rate; write one like 12GB/s"))?;
    match parse_bytes(size)? {
        0 => Err(format!("'{text}' is not a rate: it must be above 0")),
        rate => Ok(rate),
    }
}

/// Prints a size for people in binary units with two decimals; below 1 KiB, in bytes.
///
/// ```
/// assert_eq!(riverbed::base::format_bytes(1536), "1.50 KiB");
/// ```
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    match bytes {
        0..KIB => format!("{bytes} B"),
        KIB..MIB => format!("{:.2} KiB", bytes as f64 / KIB as f64),
        MIB..GIB => format!("{:.2} MiB", bytes as f64 / MIB as f64),
        _ => format!("{:.2} GiB", bytes as f64 / GIB as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_documented() {
        for (text, bytes) in [
            ("0", 0),
            ("1000", 1000),
            ("1KiB", 1024),
            ("1kb", 1000),
            ("40MiB", 40 << 20),
            ("2 GB", 2_000_000_000),
            ("0.5GiB", 1 << 29),
            ("8B", 8),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn nonsense_sizes_are_refused_with_the_way_out() {
        for text in
            ["", "MiB", "-1", "1.5", "1..5MiB", "12XB", "1e30GB", "99999999999999999999", "٣MiB"]
        {
            let error = parse_bytes(text).unwrap_err();
            assert!(error.contains("64MiB"), "{error}");
        }
    }

    #[test]
    fn rates_need_their_unit_and_a_value() {
        assert_eq!(parse_bytes_per_second("12GB/s"), Ok(12_000_000_000));
        assert!(parse_bytes_per_second("12GB").is_err());
        assert!(parse_bytes_per_second("0B/s").is_err());
    }

    #[test]
    fn rounding_up_never_wraps() {
        assert_eq!(align_up(0, 512), Some(0));
        assert_eq!(align_up(513, 512), Some(1024));
        assert_eq!(align_up(u64::MAX - 1, 512), None);
        assert_eq!(align_up(1, 0), None);
    }
}
