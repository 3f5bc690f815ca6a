//! A fake `libcuda.so.1`: the CUDA driver ABI over the model of `riverbed-fake-core`.
//!
//! Every export has the signature `cudarc` publishes, which the build checks, except that
//! enumerations are plain numbers: a caller may pass one this fake has no name for.
#![allow(non_snake_case, reason = "the exports have the driver's names")]
#![allow(clippy::too_many_arguments, reason = "the driver's own signatures")]
#![allow(clippy::missing_safety_doc, reason = "as the driver's own documentation has it")]

mod controls;
mod copies;
mod devices;
mod events;
mod memory;
mod modules;
mod pinned;
mod pools;
mod signature;
mod streams;
mod structs;
mod virtual_memory;

use riverbed_fake_core::{Answer, Fake, Need, Vendor, enter, fake};

/// Runs one call of the driver.
fn call(name: &'static str, need: Need, body: impl FnOnce(&'static Fake) -> Answer) -> u32 {
    enter(fake(Vendor::Cuda), name, need, body)
}

/// Exports calls, each with what it needs: `fn NAME(ARGUMENTS) NEED |fake| BODY`. Those with
/// `newer` before them are not in the published bindings of this level.
macro_rules! exports {
    () => {};
    (newer fn $name:ident($($arg:ident: $type:ty),*) $need:ident |$fake:ident| $body:expr; $($rest:tt)*) => {
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $type),*) -> u32 {
            crate::call(stringify!($name), riverbed_fake_core::Need::$need, |$fake| $body)
        }
        crate::exports!($($rest)*);
    };
    (fn $name:ident($($arg:ident: $type:ty),*) $need:ident |$fake:ident| $body:expr; $($rest:tt)*) => {
        crate::exports!(newer fn $name($($arg: $type),*) $need |$fake| $body;);
        const _: () = {
            /// Compiles only when the published function takes the same; never called.
            #[allow(dead_code)]
            unsafe fn check($($arg: $type),*) -> cudarc::driver::sys::CUresult {
                // SAFETY: never called.
                unsafe { cudarc::driver::sys::$name($(crate::signature::published($arg)),*) }
            }
        };
        crate::exports!($($rest)*);
    };
}
use exports;
