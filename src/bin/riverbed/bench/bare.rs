//! Bare copies in host memory: the limit that copies are held against.

use riverbed::base::Error;

use crate::Failure;

/// What goes through a slot at a time, by all threads together.
const CHUNK_BYTES: usize = 4 << 20;
/// Slots of a thread.
const SLOTS: usize = 3;

/// Memory that was touched.
pub(super) fn filled(bytes: usize) -> Result<Vec<u8>, Failure> {
    let mut memory = Vec::new();
    memory.try_reserve_exact(bytes).map_err(|_| {
        Error::invalid("--bytes", bytes, "the system has no memory of that size left: name less")
    })?;
    memory.resize(bytes, 1);
    Ok(memory)
}

/// Copies `source` by `threads` threads, each a part of its own.
pub(super) fn copy(target: &mut [u8], source: &[u8], threads: usize) {
    in_parts(target, source, threads, |target, source| target.copy_from_slice(source));
}

/// The same through slots, as pageable memory has to go.
pub(super) fn copy_twice(target: &mut [u8], source: &[u8], threads: usize) {
    let slot_bytes = (CHUNK_BYTES / threads.max(1)).max(1);
    in_parts(target, source, threads, |target, source| {
        let mut slots = vec![vec![0; slot_bytes]; SLOTS];
        let pieces = target.chunks_mut(slot_bytes).zip(source.chunks(slot_bytes));
        for (number, (target, source)) in pieces.enumerate() {
            let slot = &mut slots[number % SLOTS][..source.len()];
            slot.copy_from_slice(source);
            target.copy_from_slice(slot);
        }
    });
}

/// Has each thread do its part of two slices of one length.
fn in_parts(
    target: &mut [u8],
    source: &[u8],
    threads: usize,
    work: impl Fn(&mut [u8], &[u8]) + Sync,
) {
    let part = source.len().div_ceil(threads.max(1)).max(1);
    std::thread::scope(|scope| {
        for (target, source) in target.chunks_mut(part).zip(source.chunks(part)) {
            let work = &work;
            scope.spawn(move || work(target, source));
        }
    });
}
