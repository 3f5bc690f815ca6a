//! Gates, and the watcher that opens them all when nothing moves any more.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Found, Lab};
use crate::base::lock;
use crate::device::{Device, DeviceResult, GATE_VALUES, GateId, Stream};
use crate::selftest::finding::{Finding, ensure};

/// A gate of a check.
#[derive(Debug, Clone, Copy)]
pub(in crate::selftest) struct Gate<'a> {
    lab: &'a Lab,
    id: GateId,
}

impl Lab {
    /// A gate at 0, opened by the lab at the latest.
    pub(in crate::selftest) fn gate(&self) -> Found<Gate<'_>> {
        Ok(Gate { lab: self, id: self.watcher.create()? })
    }

    /// Lets everybody through who waits at a gate.
    pub(in crate::selftest) fn open_all(&self) -> Found {
        self.watcher.shared.open_all()
    }
}

impl Gate<'_> {
    /// Raises the gate.
    pub(in crate::selftest) fn open(self, value: u64) -> Found {
        let shared = &self.lab.watcher.shared;
        shared.with(self.id, || shared.device.driver().open_gate(self.id, value))
    }

    /// Makes `stream` wait until the gate is at `value`.
    pub(in crate::selftest) fn hold(self, stream: &Stream, value: u64) -> Found {
        let shared = &self.lab.watcher.shared;
        shared.with(self.id, || shared.device.driver().wait_gate(stream.id(), self.id, value))
    }

    /// Gives it up while streams may still wait at it.
    pub(in crate::selftest) fn give_up(self) -> Found {
        self.lab.watcher.destroy(self.id)
    }
}

/// The gates there are, and a thread that looks after them once there is one.
#[derive(Debug)]
pub(super) struct Watcher {
    shared: Arc<Shared>,
    patience: Duration,
    thread: Mutex<Option<(Sender<()>, JoinHandle<()>)>>,
}

#[derive(Debug)]
struct Shared {
    device: Device,
    gates: Mutex<Vec<GateId>>,
    /// Whether patience was over.
    stood_still: AtomicBool,
}

impl Watcher {
    pub(super) fn new(device: &Device, patience: Duration) -> Self {
        let shared = Shared {
            device: device.clone(),
            gates: Mutex::default(),
            stood_still: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared), patience, thread: Mutex::default() }
    }

    fn create(&self) -> Found<GateId> {
        self.start()?;
        let mut gates = lock(&self.shared.gates);
        let gate = self.shared.device.driver().create_gate()?;
        gates.push(gate);
        Ok(gate)
    }

    fn destroy(&self, gate: GateId) -> Found {
        let mut gates = lock(&self.shared.gates);
        ensure!(gates.contains(&gate), "{gate:?} is not held");
        self.shared.destroy(gate)?;
        gates.retain(|&other| other != gate);
        Ok(())
    }

    fn start(&self) -> Found {
        let mut thread = lock(&self.thread);
        if thread.is_some() {
            return Ok(());
        }
        let (ended, end) = channel::<()>();
        let (shared, patience) = (Arc::clone(&self.shared), self.patience);
        let watch = move || {
            while end.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
                if !shared.stood_still.swap(true, Ordering::Relaxed) {
                    let _ = shared.open_all();
                } else {
                    // Opening did not help. A gate that is gone holds nobody.
                    lock(&shared.gates).retain(|&gate| shared.destroy(gate).is_err());
                }
            }
        };
        let named = std::thread::Builder::new().name("riverbed-watcher".into());
        let started = named.spawn(watch).map_err(|error| {
            Finding::new(format!("the system refuses one more thread: {error}"))
        })?;
        *thread = Some((ended, started));
        Ok(())
    }

    /// Whether all moved in time.
    pub(super) fn verdict(&self) -> Found {
        if self.shared.stood_still.load(Ordering::Relaxed) {
            let patience = self.patience.as_secs_f64();
            return Err(Finding::new(format!("nothing moved for {patience} s at closed gates")));
        }
        Ok(())
    }

    /// Gives all gates up and ends the thread; `insist` calls until the call succeeds.
    pub(super) fn finish(
        &self,
        mut insist: impl FnMut(&mut dyn FnMut() -> DeviceResult<()>) -> bool,
    ) {
        for gate in std::mem::take(&mut *lock(&self.shared.gates)) {
            insist(&mut || self.shared.destroy(gate));
        }
        if let Some((ended, thread)) = lock(&self.thread).take() {
            drop(ended);
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Runs `call` if the gate is still there, and keeps it there meanwhile.
    fn with(&self, gate: GateId, call: impl FnOnce() -> DeviceResult<()>) -> Found {
        let gates = lock(&self.gates);
        ensure!(gates.contains(&gate), "{gate:?} was given up");
        Ok(call()?)
    }

    /// Gives a gate up. The caller takes it off the list, under the lock or with nobody left.
    fn destroy(&self, gate: GateId) -> DeviceResult<()> {
        // SAFETY: it is on the list once, and goes with it: nobody uses it again.
        unsafe { self.device.driver().destroy_gate(gate) }
    }

    fn open_all(&self) -> Found {
        let gates = lock(&self.gates);
        let driver = self.device.driver();
        let opened = gates.iter().map(|&gate| driver.open_gate(gate, GATE_VALUES - 1));
        // All of them, also after one that fails.
        Ok(opened.fold(Ok(()), Result::and)?)
    }
}
