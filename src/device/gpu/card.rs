//! A GPU taken hold of: its driver's functions and its context, made current on whatever thread
//! a call comes from and put back after it, so that other users of the thread see no change.

use super::abi::CAPTURE_RELAXED;
use super::calls::Calls;
use super::symbols::Refusal;
use super::vendor::{Context, Vendor};
use crate::base::DeviceError;

/// A device of a vendor; let go of when dropped.
#[derive(Debug)]
pub(super) struct Card<V: Vendor> {
    pub(super) vendor: V,
    pub(super) calls: Calls,
    pub(super) context: Context,
}

impl<V: Vendor> Card<V> {
    /// Takes hold of device `ordinal`; gives the vendor back with a refusal.
    pub(super) fn retain(vendor: V, calls: Calls, ordinal: i32) -> Result<Self, (V, Refusal)> {
        match vendor.retain(&calls, ordinal) {
            Ok(context) => Ok(Self { vendor, calls, context }),
            Err(refusal) => Err((vendor, refusal)),
        }
    }

    /// Does `work` with the device current.
    pub(super) fn inside<T>(
        &self,
        work: impl FnOnce(&Calls) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let previous = self.vendor.enter(self.context)?;
        let outcome = work(&self.calls);
        self.vendor.leave(previous);
        outcome
    }

    /// As [`inside`](Self::inside), for calls that a capture in progress on any thread would
    /// forbid: they take part in no graph, so this thread says that it knows.
    pub(super) fn apart<T>(
        &self,
        work: impl FnOnce(&Calls) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        self.inside(|calls| {
            let mut mode = CAPTURE_RELAXED;
            // SAFETY: the pointer is to a live number, which takes the mode before.
            let relaxed = unsafe { calls.exchange_capture_mode(&raw mut mode) }.is_ok();
            let outcome = work(calls);
            if relaxed {
                // SAFETY: as above. It fails only where the driver is gone.
                let _ = unsafe { calls.exchange_capture_mode(&raw mut mode) };
            }
            outcome
        })
    }

    /// The error of `call` on `device`.
    pub(super) fn error(&self, device: &str, call: &'static str, refusal: Refusal) -> DeviceError {
        error(&self.vendor, device, call, refusal)
    }
}

impl<V: Vendor> Drop for Card<V> {
    fn drop(&mut self) {
        if let Err(refusal) = self.vendor.release(self.context) {
            tracing::debug!(?refusal, "a device was not let go of");
        }
    }
}

/// The number of a device attribute; 0 where the driver does not know it.
pub(super) fn attribute_of(calls: &Calls, device: i32, attribute: u32) -> i32 {
    let mut value = 0;
    // SAFETY: the pointer is to a live int.
    let asked = unsafe { calls.device_attribute(&raw mut value, attribute, device) };
    asked.map_or(0, |()| value)
}

/// The error of `call` on `device`: the driver's function and what it answered.
pub(super) fn error<V: Vendor>(
    vendor: &V,
    device: &str,
    call: &'static str,
    refusal: Refusal,
) -> DeviceError {
    let Refusal { symbol, status, missing } = refusal;
    let text = if missing {
        format!("this driver has no {symbol}")
    } else {
        let name = vendor.status_name(status).map(|name| name.to_string_lossy());
        format!("{symbol}: {}", name.as_deref().unwrap_or("a status without a name"))
    };
    DeviceError { device: device.into(), call, status, text }
}
