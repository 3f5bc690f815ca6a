//! A fake `libamdhip64.so.6`: the HIP ABI over the model of `riverbed-fake-core`.
//!
//! Signatures and structures are those of the headers of ROCm 6; what older ones have otherwise
//! follows the version the fake is set to. Enumerations are plain numbers: a caller may pass one
//! this fake has no name for.
#![allow(non_snake_case, reason = "the exports have the runtime's names")]
#![allow(clippy::too_many_arguments, reason = "the runtime's own signatures")]
#![allow(clippy::missing_safety_doc, reason = "as the runtime's own documentation has it")]

mod code_object;
mod controls;
mod copies;
mod devices;
mod memory;
mod modules;
mod pools;
mod streams;
mod structs;
mod virtual_memory;

use std::cell::Cell;

use riverbed_fake_core::{Answer, Fake, Need, Vendor, enter, fake};

thread_local! {
    static LAST_ERROR: Cell<u32> = const { Cell::new(0) };
}

/// Runs one call of the runtime; each thread remembers its last failure.
fn call(name: &'static str, need: Need, body: impl FnOnce(&'static Fake) -> Answer) -> u32 {
    let status = enter(fake(Vendor::Hip), name, need, body);
    if status != 0 {
        LAST_ERROR.set(status);
    }
    status
}

/// The thread's last failure, which is forgotten with it.
fn take_last_error() -> u32 {
    LAST_ERROR.replace(0)
}

/// Exports calls, each with what it needs: `fn NAME(ARGUMENTS) NEED |fake| BODY`.
macro_rules! exports {
    ($(fn $name:ident($($arg:ident: $type:ty),*) $need:ident |$fake:ident| $body:expr;)*) => {$(
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $type),*) -> u32 {
            crate::call(stringify!($name), riverbed_fake_core::Need::$need, |$fake| $body)
        }
    )*};
}
use exports;
