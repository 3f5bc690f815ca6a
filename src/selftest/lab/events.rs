//! Events as the driver itself has them.
#![allow(unsafe_code)]

use super::{Found, Lab};
use crate::base::DeviceError;
use crate::device::{Driver, EventId, Stream};

/// An event that is given up with its owner.
struct RawEvent<'a> {
    driver: &'a dyn Driver,
    id: EventId,
}

impl Drop for RawEvent<'_> {
    fn drop(&mut self) {
        // SAFETY: this is the only owner, and it is going. A second try is for a first that
        // failed and did nothing.
        let _ = (0..2).any(|_| unsafe { self.driver.destroy_event(self.id) }.is_ok());
    }
}

impl Lab {
    /// What the driver says of the time between two reached events without timing, which the
    /// handles would not even ask.
    pub(in crate::selftest) fn elapsed_without_timing(
        &self,
        stream: &Stream,
    ) -> Found<Result<u64, DeviceError>> {
        let driver = self.driver();
        let event = || Ok::<_, DeviceError>(RawEvent { driver, id: driver.create_event(false)? });
        let (one, two) = (event()?, event()?);
        driver.record_event(one.id, stream.id())?;
        driver.record_event(two.id, stream.id())?;
        self.sync(stream)?;
        Ok(driver.elapsed_ns(one.id, two.id))
    }
}
