//! Proof that the ring's books agree with each other.

use super::ring::Ring;

impl Ring {
    /// What is wrong with the books; nothing ever should be.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.broken.is_some() {
            return Ok(()); // The driver failed half-way: the books stand where it did.
        }
        let (mut end, mut first) = (0, None);
        for (offset, bytes, number) in self.space.places() {
            first.get_or_insert(offset);
            if offset < end {
                return Err(format!("unit {number} at {offset} overlaps what ends at {end}"));
            }
            end = offset.saturating_add(bytes);
            let unit =
                self.units.get(number).ok_or_else(|| format!("there is no unit {number}"))?;
            let at = unit.entry.as_ref().map(|entry| (entry.offset, entry.taken_bytes));
            if at != Some((offset, bytes)) {
                let place = (offset, bytes);
                return Err(format!("unit {number} has a place {place:?}, and says {at:?}"));
            }
        }
        // Where the ring goes round, the last place may reach as far as the first one.
        let over = if self.at.goes_round { first.unwrap_or(0) } else { 0 };
        if end > self.at.ring_bytes.saturating_add(over) {
            return Err(format!("a place ends at {end} of {} bytes", self.at.ring_bytes));
        }
        let has_place = |unit: usize| self.space.places().any(|(.., number)| number == unit);
        for (number, unit) in self.units.iter().enumerate() {
            match &unit.entry {
                Some(entry) => {
                    let fixed = self.fixed.as_ref().and_then(|places| places.get(number));
                    if !has_place(number) {
                        return Err(format!("unit {number} is there without a place"));
                    }
                    let is_half = entry.taken_bytes < unit.plan.place_bytes();
                    if is_half != entry.rest.is_some() || is_half && self.half != Some(number) {
                        let half = self.half;
                        return Err(format!("unit {number}: half {is_half}, {half:?} is known"));
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
