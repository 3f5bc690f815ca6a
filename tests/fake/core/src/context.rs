//! Contexts: one a device. CUDA's threads have a stack of current ones, HIP's a current device.

use std::cell::{Cell, RefCell};

use crate::Vendor;
use crate::entry::misuse;
use crate::fake::{Fake, Kind};
use crate::status::{Answer, CONTEXT_DESTROYED, INVALID_CONTEXT};

thread_local! {
    static STACK: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    static DEVICE: Cell<usize> = const { Cell::new(0) };
}

impl Fake {
    /// The device of the thread's current context.
    pub fn current(&self) -> Answer<usize> {
        match self.vendor {
            Vendor::Cuda => self.device_of_context(self.current_context()),
            Vendor::Hip => Ok(DEVICE.get()),
        }
    }

    pub(crate) fn has_no_context(&self) -> bool {
        self.vendor == Vendor::Cuda && self.current_context() == 0
    }

    /// Handle of the thread's current context; 0 for none.
    pub fn current_context(&self) -> u64 {
        STACK.with_borrow(|stack| stack.last().copied().unwrap_or_default())
    }

    /// Makes a device current (HIP).
    pub fn set_device(&self, gpu: usize) {
        DEVICE.set(gpu);
    }

    /// The device a context is of.
    pub fn device_of_context(&self, context: u64) -> Answer<usize> {
        if context == 0 {
            return Err(INVALID_CONTEXT);
        }
        let state = self.state();
        if let Some(gpu) = state.gpus.iter().position(|gpu| gpu.context == context) {
            return Ok(gpu);
        }
        let (kind, words) = state.not_alive(Kind::Context, context);
        drop(state);
        let gone = kind == "destroyed_handle";
        Err(misuse(kind, words, if gone { CONTEXT_DESTROYED } else { INVALID_CONTEXT }))
    }

    /// Takes a share of a device's primary context; gives its handle.
    pub fn retain_context(&self, gpu: usize) -> u64 {
        let mut state = self.state();
        if state.gpus[gpu].context == 0 {
            let context = state.number(Kind::Context);
            state.gpus[gpu].context = context;
        }
        state.gpus[gpu].retains += 1;
        state.gpus[gpu].context
    }

    /// Gives a share back; the context ends with the last.
    pub fn release_context(&self, gpu: usize) -> Answer {
        let mut state = self.state();
        let retains = state.gpus[gpu].retains;
        match retains {
            0 => {
                drop(state);
                return Err(misuse(
                    "unbalanced_release",
                    "the primary context is not retained",
                    INVALID_CONTEXT,
                ));
            }
            1 => {}
            _ => {
                state.gpus[gpu].retains -= 1;
                return Ok(());
            }
        }
        state.gpus[gpu].retains = 0;
        state.gpus[gpu].context = 0;
        drop(state);
        self.end_context(gpu);
        Ok(())
    }

    /// Whether a device's primary context exists.
    pub fn is_context_active(&self, gpu: usize) -> bool {
        self.state().gpus[gpu].context != 0
    }

    /// Makes a context current instead of the present one; 0 for none.
    pub fn set_context(&self, context: u64) -> Answer {
        if context != 0 {
            self.device_of_context(context)?;
        }
        STACK.with_borrow_mut(|stack| {
            stack.pop();
            if context != 0 {
                stack.push(context);
            }
        });
        Ok(())
    }

    pub fn push_context(&self, context: u64) -> Answer {
        self.device_of_context(context)?;
        STACK.with_borrow_mut(|stack| stack.push(context));
        Ok(())
    }

    pub fn pop_context(&self) -> Answer<u64> {
        STACK
            .with_borrow_mut(Vec::pop)
            .ok_or_else(|| misuse("no_context", "no context to pop", INVALID_CONTEXT))
    }

    /// Everything a context owns goes with it; whoever still has some of it used it wrongly.
    fn end_context(&self, gpu: usize) {
        self.wait_for_device(gpu);
        let _removing = self.removing();
        let mut state = self.state();
        let state = &mut *state;
        let mut left = Vec::new();
        let mut count = |kind: &str, gone: usize| {
            if gone > 0 {
                left.push(format!("{gone} {kind}"));
            }
        };
        let before = state.streams.len();
        state.streams.retain(|_, stream| stream.gpu != gpu);
        count("streams", before - state.streams.len());
        let before = state.events.len();
        state.events.retain(|_, event| event.gpu != gpu);
        count("events", before - state.events.len());
        let before = state.blocks.len();
        // Their memory stays with the host device: nothing hands these addresses out again.
        state.blocks.retain(|_, block| block.gpu != gpu || block.pool != 0);
        count("allocations", before - state.blocks.len());
        let before = state.pinned.len();
        state.pinned.retain(|_, pinned| pinned.gpu != gpu);
        count("pinned ranges", before - state.pinned.len());
        let before = state.modules.len();
        state.modules.retain(|_, module| module.gpu != gpu);
        count("modules", before - state.modules.len());
        state.functions.retain(|_, function| function.gpu != gpu);
        state.per_thread.retain(|(of, _), _| *of != gpu);
        state.gpus[gpu].legacy = None;
        if !left.is_empty() {
            misuse("context_destroyed_in_use", format!("with {}", left.join(", ")), 0);
        }
    }
}
