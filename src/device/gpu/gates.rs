//! Gates on a GPU: a word of pinned memory that streams wait for, or, where the driver has no
//! such wait, a host function that stands in the stream until the gate is open.
//!
//! A word serves one gate after the other. Numbers in a word only rise: each gate counts from a
//! base of its own, [`GATE_VALUES`] above the one before, so that a stream that still waits at a
//! gate given up is let through, and no later gate stops it again.
//!
//! A stream that stands at a gate may hold up others that share its queue in hardware (CUDA has
//! 8 by default, `CUDA_DEVICE_MAX_CONNECTIONS`), and a host function that waits holds up the
//! thread that calls them: whoever opens a gate must not wait for other work of the device.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::base::{DeviceError, lock};
use crate::device::arena::Status;
use crate::device::contract::GATE_VALUES;
use crate::device::host::GateState;
use crate::device::table::Table;

/// Bytes of pinned memory taken at a time.
pub(super) const PAGE_BYTES: usize = 4096;
/// A word whose base is beyond this is not used again: drivers compare signed differences.
const LAST_BASE: u64 = 1 << 62;

/// A word that streams wait for.
#[derive(Debug, Clone, Copy)]
struct Word {
    host: &'static AtomicU64,
    device: u64,
    base: u64,
}

#[derive(Debug, Clone)]
enum Gate {
    Word(Word),
    Host(Arc<GateState>),
}

/// What a stream must be made to do to wait.
#[derive(Debug)]
pub(super) enum Wait {
    /// Wait until the word at this device address is at the value.
    Word { device: u64, value: u64 },
    /// Call a host function that waits for this.
    Host(Arc<GateState>, u64),
}

/// The gates of one device.
#[derive(Debug)]
pub(super) struct Gates {
    /// Whether streams can wait for words.
    words: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    gates: Table<Gate>,
    idle: Vec<Word>,
}

impl Gates {
    pub(super) fn new(words: bool) -> Self {
        Self { words, state: Mutex::default() }
    }

    /// A gate at 0. `page` gives zeroed memory of [`PAGE_BYTES`] that stays as long as this
    /// device does, as the host and the device see it.
    pub(super) fn create<E>(
        &self,
        page: impl FnOnce() -> Result<(&'static [AtomicU64], u64), E>,
    ) -> Result<u64, E> {
        let mut state = lock(&self.state);
        if !self.words {
            return Ok(state.gates.insert(Gate::Host(Arc::new(GateState::new()))));
        }
        if state.idle.is_empty() {
            let (words, device) = page()?;
            let words = words.iter().zip((device..).step_by(size_of::<AtomicU64>()));
            state.idle.extend(words.map(|(host, device)| Word { host, device, base: 0 }));
        }
        let word = state.idle.pop();
        let gate = word.map_or_else(|| Gate::Host(Arc::new(GateState::new())), Gate::Word);
        Ok(state.gates.insert(gate))
    }

    pub(super) fn destroy(&self, gate: u64) -> Result<(), Status> {
        let mut state = lock(&self.state);
        match state.gates.remove(gate)? {
            Gate::Host(gate) => gate.open(u64::MAX),
            Gate::Word(word) => {
                let base = word.base + GATE_VALUES;
                word.host.store(base, Ordering::SeqCst);
                if base < LAST_BASE {
                    state.idle.push(Word { base, ..word });
                }
            }
        }
        Ok(())
    }

    pub(super) fn open(&self, gate: u64, value: u64) -> Result<(), Status> {
        match self.get(gate, value)? {
            Gate::Host(gate) => gate.open(value),
            Gate::Word(word) => {
                word.host.fetch_max(word.base + value, Ordering::SeqCst);
            }
        }
        Ok(())
    }

    pub(super) fn wait(&self, gate: u64, value: u64) -> Result<Wait, Status> {
        Ok(match self.get(gate, value)? {
            Gate::Host(gate) => Wait::Host(gate, value),
            Gate::Word(word) => Wait::Word { device: word.device, value: word.base + value },
        })
    }

    fn get(&self, gate: u64, value: u64) -> Result<Gate, Status> {
        let gate = lock(&self.state).gates.get(gate)?.clone();
        if value < GATE_VALUES { Ok(gate) } else { Err(DeviceError::INVALID_VALUE) }
    }

    /// Lets everybody through: the device is being given up.
    pub(super) fn open_all(&self) {
        for gate in lock(&self.state).gates.iter() {
            match gate {
                Gate::Host(gate) => gate.open(u64::MAX),
                Gate::Word(word) => word.host.store(word.base + GATE_VALUES, Ordering::SeqCst),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Result<(&'static [AtomicU64], u64), ()> {
        let words: Vec<AtomicU64> = (0..2).map(|_| AtomicU64::new(0)).collect();
        Ok((words.leak(), 0x1000))
    }

    fn word(gates: &Gates, gate: u64, value: u64) -> (u64, u64) {
        match gates.wait(gate, value).unwrap() {
            Wait::Word { device, value } => (device, value),
            Wait::Host(..) => panic!("a word was asked for"),
        }
    }

    #[test]
    fn who_waits_at_a_gate_given_up_is_let_through_for_ever() {
        let gates = Gates::new(true);
        let first = gates.create(page).unwrap();
        let (device, wanted) = word(&gates, first, GATE_VALUES - 1);
        gates.destroy(first).unwrap();
        let again = gates.create(page).unwrap();
        let (same, new) = word(&gates, again, 1);
        assert_eq!(device, same);
        // The word stands between: at or above what the first waits for, below the second's.
        assert!(wanted < new);
        let Gate::Word(held) = gates.get(again, 0).unwrap() else { panic!() };
        let at = held.host.load(Ordering::SeqCst);
        assert!(wanted <= at && at < new, "{wanted} {at} {new}");
        gates.open(again, 1).unwrap();
        gates.open(again, 0).unwrap();
        assert_eq!(held.host.load(Ordering::SeqCst), new, "it never falls");
    }

    #[test]
    fn gates_that_are_none_and_values_out_of_range_are_refused() {
        for words in [true, false] {
            let gates = Gates::new(words);
            let gate = gates.create(page).unwrap();
            assert_eq!(gates.open(gate, GATE_VALUES), Err(DeviceError::INVALID_VALUE));
            assert_eq!(gates.wait(gate, u64::MAX).unwrap_err(), DeviceError::INVALID_VALUE);
            gates.destroy(gate).unwrap();
            assert_eq!(gates.open(gate, 1), Err(DeviceError::INVALID_HANDLE));
            assert_eq!(gates.destroy(gate), Err(DeviceError::INVALID_HANDLE));
        }
    }

    #[test]
    fn no_page_is_no_gate() {
        let gates = Gates::new(true);
        assert_eq!(gates.create(|| Err(2)), Err(2));
        gates.create(page).unwrap();
    }
}
