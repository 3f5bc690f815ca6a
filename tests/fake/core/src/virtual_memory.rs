//! Address space: reserved and given up.

use riverbed::device::{Device, DevicePtr, PageId};

use crate::device::{driver, driver_call};
use crate::entry::misuse;
use crate::fake::Fake;
use crate::status::{Answer, INVALID_VALUE, NOT_SUPPORTED};

/// Address space.
#[derive(Debug)]
pub(crate) struct Reservation {
    pub(crate) bytes: u64,
    /// What was reserved around it.
    around: (u64, u64),
    /// Physical memory given up while it was mapped here, kept until the space goes.
    pub(crate) kept: Vec<(usize, PageId)>,
}

pub(crate) const DEVICE_LOCATION: u32 = 1;
const PINNED_ALLOCATION: u32 = 1;
impl Fake {
    pub(crate) fn with_vmm(&self) -> Answer {
        if self.settings.vmm { Ok(()) } else { Err(NOT_SUPPORTED) }
    }

    /// The host device that has the address space and what is mapped there, of all devices.
    pub(crate) fn space(&self) -> Answer<Device> {
        self.state().space.clone().ok_or(NOT_SUPPORTED)
    }

    pub(crate) fn bad(&self, words: String) -> u32 {
        misuse("invalid_argument", words, INVALID_VALUE)
    }

    /// Checks a size against the granularity.
    pub(crate) fn check_size(&self, what: &str, bytes: u64) -> Answer {
        if bytes == 0 || !bytes.is_multiple_of(self.settings.granularity) {
            let words = format!("{what} of {bytes} is off the granularity");
            return Err(misuse("off_granularity", words, INVALID_VALUE));
        }
        Ok(())
    }

    /// The granularity of mappings on a device.
    pub fn granularity(&self, kind: u32, location: (u32, i32), option: u32) -> Answer<usize> {
        self.with_vmm()?;
        self.check_location(kind, location)?;
        match option {
            0 => Ok(self.settings.granularity as usize),
            1 => Ok(self.settings.recommended_granularity as usize),
            _ => Err(self.bad(format!("granularity option {option}"))),
        }
    }

    pub(crate) fn check_location(
        &self,
        kind: u32,
        (location_type, id): (u32, i32),
    ) -> Answer<usize> {
        if kind != PINNED_ALLOCATION || location_type != DEVICE_LOCATION {
            return Err(self.bad(format!("allocation type {kind}, location type {location_type}")));
        }
        self.gpu(id)
    }

    pub fn reserve(&self, bytes: u64, alignment: u64, flags: u64) -> Answer<u64> {
        self.with_vmm()?;
        self.unsafe_in_capture()?;
        self.check_size("a reservation", bytes)?;
        if flags != 0 || alignment != 0 && !alignment.is_power_of_two() {
            return Err(self.bad(format!("alignment {alignment}, flags {flags:#x}")));
        }
        let extra = if alignment > self.settings.granularity { alignment } else { 0 };
        let around_bytes = bytes.checked_add(extra).ok_or(crate::status::OUT_OF_MEMORY)?;
        let start = driver_call(driver(&self.space()?).reserve(around_bytes))?.0;
        let at = start.next_multiple_of(alignment.max(1));
        let reservation = Reservation { bytes, around: (start, around_bytes), kept: Vec::new() };
        self.state().reservations.insert(at, reservation);
        Ok(at)
    }

    pub fn release_reservation(&self, at: u64, bytes: u64) -> Answer {
        self.with_vmm()?;
        self.unsafe_in_capture()?;
        let mut state = self.state();
        let Some(reservation) = state.reservations.get(&at) else {
            drop(state);
            return Err(misuse(
                "invalid_free",
                format!("no reservation at {at:#x}"),
                INVALID_VALUE,
            ));
        };
        let whole = reservation.bytes;
        if whole != bytes {
            drop(state);
            let words = format!("{bytes} of a reservation of {whole}");
            return Err(misuse("invalid_free", words, INVALID_VALUE));
        }
        if state.mappings.range(at..at + bytes).next().is_some() {
            drop(state);
            return Err(misuse("reservation_in_use", "it has mappings", INVALID_VALUE));
        }
        let reservation = state.reservations.remove(&at);
        drop(state);
        let Some(Reservation { around: (start, around_bytes), kept, .. }) = reservation else {
            return Err(INVALID_VALUE);
        };
        for (gpu, page) in kept {
            // SAFETY: the handle was released before and nothing maps it.
            driver_call(unsafe { driver(&self.host(gpu)?).destroy_page(page) })?;
        }
        // SAFETY: it is out of the table, with nothing mapped.
        driver_call(unsafe { driver(&self.space()?).release(DevicePtr(start), around_bytes) })
    }
}
