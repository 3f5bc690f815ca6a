//! Loaded device code: which functions it has. Nothing of it is run; the functions are Riverbed's
//! own, and `kernels` knows what they do.

use crate::Vendor;
use crate::entry::misuse;
use crate::fake::{Fake, Kind};
use crate::status::{Answer, INVALID_HANDLE, NOT_FOUND};

/// A module.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) gpu: usize,
    functions: Vec<String>,
}

/// A function of a module.
#[derive(Debug, Clone)]
pub(crate) struct Function {
    pub(crate) gpu: usize,
    pub(crate) name: String,
    module: u64,
}

impl Fake {
    /// Loads a module that has these functions, on the current device.
    pub fn load_module(&self, functions: Vec<String>) -> Answer<u64> {
        self.unsafe_in_capture()?;
        let gpu = self.current()?;
        let mut state = self.state();
        let handle = state.number(Kind::Module);
        state.modules.insert(handle, Module { gpu, functions });
        Ok(handle)
    }

    pub fn unload_module(&self, handle: u64) -> Answer {
        self.unsafe_in_capture()?;
        let mut state = self.state();
        if state.modules.remove(&handle).is_some() {
            state.functions.retain(|_, function| function.module != handle);
            return Ok(());
        }
        let (kind, words) = state.not_alive(Kind::Module, handle);
        drop(state);
        Err(misuse(kind, words, INVALID_HANDLE))
    }

    pub fn function(&self, module: u64, name: &str) -> Answer<u64> {
        let mut state = self.state();
        let Some(found) = state.modules.get(&module) else {
            let (kind, words) = state.not_alive(Kind::Module, module);
            drop(state);
            return Err(misuse(kind, words, INVALID_HANDLE));
        };
        if !found.functions.iter().any(|function| function == name) {
            return Err(NOT_FOUND);
        }
        let gpu = found.gpu;
        let handle = state.number(Kind::Function);
        state.functions.insert(handle, Function { gpu, name: name.into(), module });
        Ok(handle)
    }

    pub(crate) fn function_of(&self, handle: u64) -> Answer<Function> {
        let state = self.state();
        if let Some(function) = state.functions.get(&handle) {
            return Ok(function.clone());
        }
        let (kind, words) = state.not_alive(Kind::Function, handle);
        drop(state);
        Err(misuse(kind, words, INVALID_HANDLE))
    }

    /// The vendor's word for its code.
    pub fn code_kind(&self) -> &'static str {
        match self.vendor {
            Vendor::Cuda => "PTX",
            Vendor::Hip => "a code object",
        }
    }
}
