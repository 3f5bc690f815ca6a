//! Small aligned buffers for what cannot be read straight to its place.

use super::super::plan::{ALIGN, BOUNCE_BYTES};

/// A buffer of [`BOUNCE_BYTES`], aligned as direct reads want it. Zeros at first, which take no
/// memory before they are written.
pub(super) struct Bounce {
    /// A page more, to begin at a page.
    memory: Vec<u8>,
    start: usize,
}

impl Bounce {
    pub(super) fn new() -> Self {
        let memory = vec![0; (BOUNCE_BYTES + ALIGN) as usize];
        let start = memory.as_ptr().align_offset(ALIGN as usize);
        Self { memory, start }
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.memory[self.start..].as_mut_ptr()
    }

    pub(super) fn first_page(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + ALIGN as usize]
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + BOUNCE_BYTES as usize]
    }
}
