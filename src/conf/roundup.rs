//! `roundup_power2_divisions`: rounding sizes up to subdivisions of powers of two, so that
//! requests of slightly different sizes share blocks. Slots and sizes are PyTorch's.

use super::form::{Form, whole};
use super::tokens::Raw;

/// Sizes are told apart by powers of two from 1 MiB (slot 0, and everything below 2 MiB) to
/// 32 GiB (the last slot, and everything above).
const SLOT_COUNT: usize = 16;
/// The power of two of slot 0: 1 MiB.
const SLOT_0_LOG2: u32 = 20;
/// Every size is a multiple of this.
const GRAIN_BYTES: u64 = 512;

/// Into how many steps each power of two is divided, by size. Off by default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RoundupDivisions {
    /// Any entries are given.
    divides: bool,
    given: Given,
    slots: [u64; SLOT_COUNT],
}

/// The entries as written, because several spellings fill the slots alike.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Given {
    #[default]
    Nothing,
    Single(u64),
    /// Boundary in MiB (`None` is `>`) and divisions.
    List(Vec<(Option<u64>, u64)>),
}

/// The next multiple of `step`, a power of two; `u64::MAX` where there is none.
#[inline]
fn up_to(bytes: u64, step: u64) -> u64 {
    bytes.checked_add(step - 1).map_or(u64::MAX, |bytes| bytes & !(step - 1))
}

impl RoundupDivisions {
    /// The divisions for sizes of 1, 2, 4, … MiB up to 32 GiB; 0 and 1 leave sizes alone.
    #[must_use]
    pub fn slots(&self) -> &[u64; SLOT_COUNT] {
        &self.slots
    }

    /// True when sizes are rounded up to multiples of 512 and to nothing else.
    #[must_use]
    #[inline]
    pub fn is_off(&self) -> bool {
        !self.divides
    }

    /// The size of the block for a request of `size_bytes`: a multiple of 512, at least 512.
    ///
    /// Requests above 512 bytes times the divisions of their size are rounded up to the next
    /// subdivision of the power of two below them. A size that cannot be rounded without
    /// passing 2^64 gives `u64::MAX`.
    ///
    /// ```
    /// use riverbed::conf::Conf;
    /// let conf: Conf = "roundup_power2_divisions:4".parse()?;
    /// assert_eq!(conf.roundup_power2_divisions.round(600 << 20 | 7), 640 << 20);
    /// assert_eq!(Conf::default().roundup_power2_divisions.round(1200), 1536);
    /// # Ok::<(), riverbed::Error>(())
    /// ```
    #[must_use]
    #[inline]
    pub fn round(&self, size_bytes: u64) -> u64 {
        if self.divides {
            return self.round_divided(size_bytes);
        }
        up_to(size_bytes.max(1), GRAIN_BYTES)
    }

    fn round_divided(&self, size_bytes: u64) -> u64 {
        let Some(log2) = size_bytes.checked_ilog2() else {
            return GRAIN_BYTES;
        };
        let slot = (log2.saturating_sub(SLOT_0_LOG2) as usize).min(SLOT_COUNT - 1);
        let divisions = self.slots[slot];
        let step_bytes = if divisions > 1 && size_bytes > GRAIN_BYTES.saturating_mul(divisions) {
            // Divisions are powers of two and below size / 512, so the step is at least 512.
            (1 << log2) / divisions
        } else {
            GRAIN_BYTES
        };
        up_to(size_bytes, step_bytes)
    }

    fn single(divisions: u64) -> Result<Self, String> {
        if !divisions.is_power_of_two() {
            return Err(format!("'{divisions}' divisions are not a power of two"));
        }
        let slots = [divisions; SLOT_COUNT];
        Ok(Self { divides: true, given: Given::Single(divisions), slots })
    }

    /// The first boundary also fills every slot below it; each later one sets its own slot
    /// and nothing between; `>` fills every slot above the boundary before it.
    fn list(entries: Vec<(Option<u64>, u64)>) -> Result<Self, String> {
        let mut slots = [0; SLOT_COUNT];
        let mut boundary_seen = false;
        let mut last_slot = 0;
        for &(boundary_mib, divisions) in &entries {
            if divisions != 0 && !divisions.is_power_of_two() {
                return Err(format!("'{divisions}' divisions are neither a power of two nor 0"));
            }
            let Some(boundary_mib) = boundary_mib else {
                slots[last_slot + 1..].fill(divisions);
                continue;
            };
            if !boundary_mib.is_power_of_two() {
                return Err(format!("the size '{boundary_mib}' is not a power of two"));
            }
            let slot = (boundary_mib.ilog2() as usize).min(SLOT_COUNT - 1);
            let first = if boundary_seen { slot } else { 0 };
            slots[first..=slot].fill(divisions);
            boundary_seen = true;
            last_slot = slot;
        }
        Ok(Self { divides: true, given: Given::List(entries), slots })
    }
}

/// One number for all sizes, or a list of `MiB:divisions`.
pub(super) struct Divisions;

impl Form for Divisions {
    type Value = RoundupDivisions;

    fn type_name(&self) -> &'static str {
        "whole number, or list of MiB:number"
    }

    fn allowed(&self) -> String {
        "a power of two, or a list like [256:1,512:2,>:4] of sizes in MiB that are powers of two \
         (> for all above the last) and divisions that are powers of two or 0 for off"
            .into()
    }

    fn read(&self, raw: &Raw<'_>) -> Result<RoundupDivisions, String> {
        let items = match raw {
            Raw::Word(word) => return RoundupDivisions::single(whole(word)?),
            Raw::List(items) => items,
        };
        let entries: Result<Vec<_>, String> = items
            .iter()
            .map(|item| {
                let word = item.value.ok_or_else(|| {
                    format!("'{}' in the list has no divisions; write SIZE:DIVISIONS", item.name)
                })?;
                let boundary = if item.name == ">" { None } else { Some(whole(item.name)?) };
                Ok((boundary, whole(word)?))
            })
            .collect();
        RoundupDivisions::list(entries?)
    }

    fn write(&self, value: &RoundupDivisions) -> String {
        match &value.given {
            Given::Nothing => "off".into(),
            Given::Single(divisions) => divisions.to_string(),
            Given::List(entries) => {
                let items: Vec<_> = entries
                    .iter()
                    .map(|(boundary, divisions)| match boundary {
                        Some(boundary_mib) => format!("{boundary_mib}:{divisions}"),
                        None => format!(">:{divisions}"),
                    })
                    .collect();
                format!("[{}]", items.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tokens::Reader;
    use super::*;

    fn read(text: &str) -> Result<RoundupDivisions, String> {
        Divisions.read(&Reader::new(text).only_value("roundup_power2_divisions").unwrap())
    }

    #[test]
    fn slots_fill_as_pytorch_fills_them() {
        // Each row: the value, then runs of (count, divisions).
        let rows: [(&str, &[(usize, u64)]); 9] = [
            ("4", &[(16, 4)]),
            ("1", &[(16, 1)]),
            ("[256:1,512:2,1024:4,>:8]", &[(9, 1), (1, 2), (1, 4), (5, 8)]),
            ("[64:8,256:4]", &[(7, 8), (1, 0), (1, 4), (7, 0)]),
            ("[512:2,256:4]", &[(8, 2), (1, 4), (1, 2), (6, 0)]),
            ("[512:4,256:2,]", &[(8, 4), (1, 2), (1, 4), (6, 0)]),
            ("[256:0,>:4]", &[(9, 0), (7, 4)]),
            ("[>:4]", &[(1, 0), (15, 4)]),
            ("[1048576:2,>:8]", &[(16, 2)]),
        ];
        for (text, runs) in rows {
            let expected: Vec<u64> =
                runs.iter().flat_map(|&(count, value)| vec![value; count]).collect();
            assert_eq!(read(text).unwrap().slots()[..], expected[..], "{text}");
        }
    }

    #[test]
    fn sizes_round_as_pytorch_rounds_them() {
        const MIB: u64 = 1 << 20;
        let four = read("4").unwrap();
        for (size, rounded) in [
            (1200, 1536),
            (600, 1024),
            (300 * MIB + 5, 320 * MIB),
            (600 * MIB + 7, 640 * MIB),
            (1100 * MIB + 1, 1280 * MIB),
            (512 * MIB, 512 * MIB),
            (2048, 2048),
            (2049, 2560),
            (0, 512),
            (1, 512),
            (u64::MAX, u64::MAX),
        ] {
            assert_eq!(four.round(size), rounded, "{size}");
        }
        for without_effect in ["1", "[256:0]"] {
            assert_eq!(read(without_effect).unwrap().round(600 * MIB + 7), 600 * MIB + 512);
        }
        let huge = read("9223372036854775808").unwrap();
        assert_eq!(huge.round(600 * MIB + 7), 600 * MIB + 512);
    }

    #[test]
    fn divisions_and_sizes_must_be_powers_of_two() {
        for text in ["0", "3", "[256:3]", "[300:2]", "[0:2]", "[256]", "[>]", "[<:2]", "[256:-2]"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
