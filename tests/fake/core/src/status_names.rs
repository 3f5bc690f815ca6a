//! Names of statuses, as C text that lives for ever.

use std::ffi::c_char;

use crate::Vendor;
use crate::status::describe;

/// The vendor's name of a status; `None` of one it does not know.
pub fn name_of(vendor: Vendor, status: u32) -> Option<*const c_char> {
    let (cuda, hip, _) = describe(status)?;
    let name = match vendor {
        Vendor::Cuda => cuda,
        Vendor::Hip => hip,
    };
    Some(name.as_ptr().cast())
}

/// A status in words.
pub fn text_of(status: u32) -> Option<*const c_char> {
    describe(status).map(|(_, _, text)| text.as_ptr().cast())
}
