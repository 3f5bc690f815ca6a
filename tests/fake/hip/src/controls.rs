//! What tests use to steer the fake and to read its book.

use std::ffi::{CStr, c_char};

use riverbed_fake_core::{Vendor, fake, report, set};

/// Takes settings; 0 when all were taken.
///
/// # Safety
/// `list` is text with a final zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn riverbed_fake_set(list: *const c_char) -> u32 {
    // SAFETY: the caller promises text with a final zero.
    let list = unsafe { CStr::from_ptr(list) }.to_string_lossy();
    u32::from(!set(Vendor::Hip, &list))
}

/// Writes the report, as JSON without a final zero, if it fits; gives its length.
///
/// # Safety
/// `room` bytes at `at` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn riverbed_fake_report(at: *mut u8, room: usize) -> usize {
    let report = report(fake(Vendor::Hip));
    if report.len() <= room {
        // SAFETY: the caller promises the room.
        unsafe { std::ptr::copy_nonoverlapping(report.as_ptr(), at, report.len()) };
    }
    report.len()
}
