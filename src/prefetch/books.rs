//! Proof that the ring's books agree with each other.

use super::ring::Ring;

impl Ring {
    /// What is wrong with the books; nothing ever should be.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.broken.is_some() {
            return Ok(()); // The driver failed half-way: the books stand where it did.
        }
        let mut end = 0;
        for (offset, bytes, number) in self.space.places() {
            if offset < end {
                return Err(format!("unit {number} at {offset} overlaps what ends at {end}"));
            }
            end = offset.saturating_add(bytes);
            let unit =
                self.units.get(number).ok_or_else(|| format!("there is no unit {number}"))?;
            let at = unit.entry.as_ref().map(|entry| entry.offset);
            if at != Some(offset) || unit.plan.place_bytes() != bytes {
                return Err(format!("unit {number} has a place at {offset}, and is at {at:?}"));
            }
        }
        if end > self.ring_bytes {
            return Err(format!("a place ends at {end} of {} bytes", self.ring_bytes));
        }
        let has_place = |unit: usize| self.space.places().any(|(.., number)| number == unit);
        for (number, unit) in self.units.iter().enumerate() {
            match &unit.entry {
                Some(entry) => {
                    let fixed = self.fixed.as_ref().and_then(|places| places.get(number));
                    if unit.plan.place_bytes() > 0 && !has_place(number) {
                        return Err(format!("unit {number} is there without a place"));
                    }
                    if fixed.is_some_and(|fixed| *fixed != entry.offset) {
                        return Err(format!("unit {number} left its fixed place {fixed:?}"));
                    }
                }
                None if !unit.uses.is_empty() => {
                    return Err(format!("unit {number} is gone, and a use of it is not"));
                }
                None => {}
            }
        }
        if self.evicted.is_empty() { Ok(()) } else { Err("a place went without its entry".into()) }
    }

    /// How many leases are alive.
    pub(super) fn live_leases(&self) -> usize {
        self.units.iter().map(super::unit::RingUnit::leases).sum()
    }
}
