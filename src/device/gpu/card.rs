//! A GPU taken hold of: its driver's functions and its context, made current on whatever thread
//! a call comes from and put back after it, so that other users of the thread see no change.

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, OnceLock};

use super::abi::{CAPTURE_RELAXED, HOST_MAPPED, HOST_PORTABLE};
use super::calls::Calls;
use super::gates::PAGE_BYTES as GATE_PAGE_BYTES;
use super::modules::Module;
use super::symbols::Refusal;
use super::vendor::{Context, Vendor};
use crate::base::{DeviceError, lock};

/// A device of a vendor. It is let go of by [`let_go`](Self::let_go) alone, for that may block.
#[derive(Debug)]
pub(super) struct Card<V: Vendor> {
    pub(super) vendor: V,
    pub(super) calls: Calls,
    pub(super) context: Context,
    /// The kernels, once one was launched.
    module: OnceLock<Module>,
    /// Held while they are loaded.
    loading: Mutex<()>,
    /// Pinned memory under gates.
    gate_pages: Mutex<Vec<u64>>,
}

impl<V: Vendor> Card<V> {
    /// Takes hold of a device; gives the vendor back with a refusal.
    pub(super) fn retain(vendor: V, calls: Calls, device: i32) -> Result<Self, (V, Refusal)> {
        match vendor.retain(&calls, device) {
            Ok(context) => Ok(Self {
                vendor,
                calls,
                context,
                module: OnceLock::new(),
                loading: Mutex::default(),
                gate_pages: Mutex::default(),
            }),
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

    /// The kernels; they are loaded at first use.
    pub(super) fn module(&self) -> Result<&Module, Refusal> {
        if let Some(module) = self.module.get() {
            return Ok(module);
        }
        let _alone = lock(&self.loading);
        // Another thread may have been first.
        if let Some(module) = self.module.get() {
            return Ok(module);
        }
        let load = |calls: &Calls| Module::load(&self.vendor, calls, self.context.device);
        let module = self.apart(load)?;
        Ok(self.module.get_or_init(|| module))
    }

    /// Pinned memory for gates, zeroed: as the host sees it, and the device. It stays until the
    /// card is let go of.
    pub(super) fn gate_page(&self) -> Result<(&'static [AtomicU64], u64), Refusal> {
        let mut host: *mut c_void = null_mut();
        let mut device = 0;
        let calls = &self.calls;
        // SAFETY: pointers to live values; the memory is given back when the card is let go of,
        // when no gate is left, so that nobody outlives what is called static here.
        unsafe {
            calls.host_alloc(&raw mut host, GATE_PAGE_BYTES, HOST_PORTABLE | HOST_MAPPED)?;
            if let Err(refusal) = calls.host_device_pointer(&raw mut device, host, 0) {
                // The first failure is the one to tell.
                let _ = calls.host_free(host);
                return Err(refusal);
            }
            lock(&self.gate_pages).push(host as u64);
            host.write_bytes(0, GATE_PAGE_BYTES);
            let words = GATE_PAGE_BYTES / size_of::<AtomicU64>();
            Ok((std::slice::from_raw_parts(host.cast(), words), device))
        }
    }

    /// Gives back everything and lets go of the device. Waits for all of its work, for kernels
    /// may still run and streams still look at gates: blocks. Nothing is done with it after.
    pub(super) fn let_go(&self) {
        let module = self.module.get();
        let pages = std::mem::take(&mut *lock(&self.gate_pages));
        let given_back = self.apart(|calls| {
            if module.is_none() && pages.is_empty() {
                return Ok(());
            }
            // SAFETY: the context is current.
            unsafe { calls.context_synchronize() }?;
            if let Some(module) = module {
                module.unload(calls);
            }
            for page in pages {
                // SAFETY: taken by `gate_page`; nothing looks at it any more.
                unsafe { calls.host_free(page as *mut c_void) }?;
            }
            Ok(())
        });
        // A device that was lost is let go of all the same.
        for outcome in [given_back, self.vendor.release(self.context)] {
            if let Err(refusal) = outcome {
                tracing::debug!(?refusal, "a device was not let go of in good order");
            }
        }
    }

    /// The error of `call` on `device`.
    pub(super) fn error(&self, device: &str, call: &'static str, refusal: Refusal) -> DeviceError {
        error(&self.vendor, device, call, refusal)
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
