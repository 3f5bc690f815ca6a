//! What stands behind a mode's name: `balanced=0.2,0.6`.

use crate::base::{Error, GIB, Result, parse_bytes};

use super::limit::VramLimit;
use super::names::ModeName;
use super::presets::{Group, ModeKind};
use super::watermarks::{Mark, Watermarks};

/// The most layers of one group: more than any model has.
const BLOCKS_MAX: u32 = 100_000;

/// The mode's kind with these options.
pub(super) fn read(row: &ModeName, kind: ModeKind, text: &str) -> Result<ModeKind> {
    let refused = |expected: &str| Error::invalid(row.name, text, expected);
    match kind {
        ModeKind::Group(_) => group(text).map(ModeKind::Group).ok_or_else(|| {
            refused("write leaf or how many layers a group has, then ,stream or ,no-stream")
        }),
        ModeKind::Balanced(_) => {
            let (low, high) =
                text.split_once(',').ok_or_else(|| refused("write two marks: 0.2,0.6"))?;
            let marks = Watermarks {
                low: Mark::parse("the low watermark", low)?,
                high: Mark::parse("the high watermark", high)?,
            };
            match (marks.low, marks.high) {
                (Mark::Fraction(low), Mark::Fraction(high)) if low >= high => {
                    Err(refused("the low watermark must be below the high one"))
                }
                (Mark::Bytes(low), Mark::Bytes(high)) if low >= high => {
                    Err(refused("the low watermark must be below the high one"))
                }
                _ => Ok(ModeKind::Balanced(Some(marks))),
            }
        }
        ModeKind::Partial { .. } => Ok(ModeKind::Partial { working_bytes: gib(row.name, text)? }),
        ModeKind::Limit(_) if text.eq_ignore_ascii_case("none") => {
            Ok(ModeKind::Limit(VramLimit::Measured))
        }
        ModeKind::Limit(_) => Ok(ModeKind::Limit(match gib(row.name, text)? {
            0 => VramLimit::Smallest,
            bytes => VramLimit::Bytes(bytes),
        })),
        _ => Err(refused("this mode has no options")),
    }
}

fn group(text: &str) -> Option<Group> {
    let mut group = Group::default();
    for word in text.split(',').map(str::trim) {
        match word {
            "leaf" => group.blocks = None,
            "block" => group.blocks = Some(1),
            "stream" => group.stream = true,
            "no-stream" => group.stream = false,
            number => {
                let blocks = number.parse().ok().filter(|n| (1..=BLOCKS_MAX).contains(n))?;
                group.blocks = Some(blocks);
            }
        }
    }
    Some(group)
}

/// A plain number is in GiB, as the systems these modes come from have it; else a size with a unit.
fn gib(name: &str, text: &str) -> Result<u64> {
    let expected = "write GiB (10), or a size with its unit (10GB)";
    match text.parse::<f64>() {
        Ok(number) if number >= 0.0 && number.is_finite() => Ok((number * GIB as f64) as u64),
        Ok(_) => Err(Error::invalid(name, text, expected)),
        Err(_) => parse_bytes(text)
            .map_err(|why| Error::invalid(name, text, format!("{expected} ({why})"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::presets::Mode;

    #[test]
    fn options_out_of_range_are_refused_with_the_range() {
        for (text, says) in [
            ("group=0", "how many layers"),
            ("group=leaf,fast", "how many layers"),
            ("balanced=0.6", "two marks"),
            ("balanced=0.6,0.2", "below the high one"),
            ("balanced=6,12", "a fraction of the card"),
            ("vram_limit=-1", "write GiB"),
            ("vram_limit=inf", "write GiB"),
            ("vram_limit=many", "write GiB"),
            ("none=1", "no options"),
        ] {
            let error = Mode::parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
