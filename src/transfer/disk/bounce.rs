//! Small aligned buffers for what cannot be read straight to its place.
#![allow(unsafe_code)]

use super::super::plan::BOUNCE_BYTES;

/// One page, as direct reads want their memory aligned.
#[repr(C, align(4096))]
#[derive(Clone)]
struct Page([u8; 4096]);

/// A buffer of [`BOUNCE_BYTES`], aligned to 4 KiB.
pub(super) struct Bounce(Box<[Page]>);

impl Bounce {
    pub(super) fn new() -> Self {
        Self(vec![Page([0; 4096]); BOUNCE_BYTES as usize / 4096].into_boxed_slice())
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr().cast()
    }

    pub(super) fn first_page(&mut self) -> &mut [u8] {
        &mut self.0[0].0
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the pages lie one behind the other without padding, and are initialised.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), BOUNCE_BYTES as usize) }
    }
}
