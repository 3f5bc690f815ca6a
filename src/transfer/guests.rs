//! Memory that was pinned for one device, opened to others: each driver is told of it once. So one
//! copy in RAM serves them all.
#![allow(unsafe_code)]

use std::sync::{Arc, Mutex};

use super::landing::Landing;
use crate::base::{DeviceError, Error, Result, lock};
use crate::device::{Device, Stream};
use crate::pinned::{AdoptedMemory, PinnedPool};

/// The devices besides its own that may copy from a piece of memory.
#[derive(Debug, Default)]
pub(super) struct Guests(Mutex<Vec<Guest>>);

#[derive(Debug)]
struct Guest {
    device: Device,
    access: Access,
}

#[derive(Debug)]
enum Access {
    /// Somebody will tell its driver.
    Asked,
    /// Its driver copies from the memory.
    Open(AdoptedMemory),
    /// The budget of its pool or its driver refuses.
    Refused,
}

impl Guests {
    /// True for one caller of each device, who sees to it that it is let in or refused.
    pub(super) fn begin(&self, device: &Device) -> bool {
        let mut guests = lock(&self.0);
        let is_new = guests.iter().all(|guest| guest.device != *device);
        if is_new {
            guests.push(Guest { device: device.clone(), access: Access::Asked });
        }
        is_new
    }

    /// Whether a device may copy.
    pub(super) fn is_ready(&self, device: &Device) -> bool {
        let guests = lock(&self.0);
        guests
            .iter()
            .any(|guest| guest.device == *device && matches!(guest.access, Access::Open(_)))
    }

    /// Tells the driver of the pool's device of the memory, of which all is there. The driver may
    /// take a while.
    pub(super) fn admit(&self, pool: &PinnedPool, landing: &Arc<Landing>) {
        let adopted = pool.adopt(Shown(Arc::clone(landing)));
        let access = match is_pinned(&adopted) {
            true => Access::Open(adopted),
            false => Access::Refused,
        };
        let mut guests = lock(&self.0);
        let guest = guests.iter_mut().find(|guest| guest.device == *pool.device());
        if let Some(guest) = guest {
            guest.access = access;
        }
    }

    /// Keeps the memory for what is enqueued on a guest's stream.
    ///
    /// # Errors
    /// No guest has such a stream.
    pub(super) fn record_use(&self, stream: &Stream) -> Result<()> {
        let guests = lock(&self.0);
        match guests.iter().find(|guest| guest.device == *stream.device()) {
            Some(Guest { access: Access::Open(adopted), .. }) => adopted.record_use(stream),
            _ => Err(Error::invalid("stream", "of a stranger", "its device must be let in first")),
        }
    }
}

/// Whether a device copies from adopted memory. Pools of GPUs pin for all GPUs of the vendor, and
/// a driver that knows the memory already says so.
fn is_pinned(adopted: &AdoptedMemory) -> bool {
    let known = |error: &DeviceError| error.status == DeviceError::ALREADY_REGISTERED;
    adopted.is_pinned() || matches!(adopted.error(), Some(Error::Device(error)) if known(&error))
}

/// A landing as bytes.
struct Shown(Arc<Landing>);

impl AsRef<[u8]> for Shown {
    fn as_ref(&self) -> &[u8] {
        let len = usize::try_from(self.0.len_bytes()).unwrap_or(0);
        // SAFETY: the landing has so many initialised bytes (pinned memory is zeroed) from its
        // start. Memory is shown to guests when all of it is there, and nobody writes it again.
        unsafe { std::slice::from_raw_parts(self.0.at(0), len) }
    }
}
