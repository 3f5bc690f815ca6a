//! Which stream a stream handle means.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::device::Stream;

/// CUDA's and HIP's handle for "the per-thread default stream": one value, as many streams as
/// there are threads (`CU_STREAM_PER_THREAD`).
const PER_THREAD_HANDLE: u64 = 0x2;
/// The handle that names the legacy default stream whatever the program was built for
/// (`CU_STREAM_LEGACY`). Handle 0 is the same stream in the drivers' plain entry points, which
/// are the ones this crate calls.
const LEGACY_HANDLE: u64 = 0x1;
const DEFAULT_HANDLE: u64 = 0x0;
/// Set in keys of per-thread default streams; no driver's handle has it, for handles are
/// pointers or small numbers.
const PER_THREAD_BIT: u64 = 1 << 63;

/// The identity of a stream: two handles with equal keys are ordered by themselves. The
/// per-thread default stream is another one on every thread, though its handle is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamKey(u64);

impl StreamKey {
    /// The key of `stream` as the calling thread means it.
    #[must_use]
    #[inline]
    pub fn of(stream: &Stream) -> Self {
        match stream.id().raw() {
            PER_THREAD_HANDLE => Self(PER_THREAD_BIT | thread_number()),
            LEGACY_HANDLE => Self(DEFAULT_HANDLE),
            handle => Self(handle),
        }
    }

    /// True for a handle that names another stream on every thread.
    #[must_use]
    pub fn is_per_thread(stream: &Stream) -> bool {
        stream.id().raw() == PER_THREAD_HANDLE
    }

    /// The key as a number.
    #[must_use]
    #[inline]
    pub fn raw(self) -> u64 {
        self.0
    }
}

/// A number no other thread of this process has or had.
fn thread_number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    thread_local! {
        static NUMBER: u64 = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    NUMBER.with(|number| *number)
}

#[cfg(test)]
#[expect(unsafe_code, reason = "wraps a handle no driver gave")]
mod tests {
    use super::*;
    use crate::device::{Device, Priority, StreamId};

    fn raw(device: &Device, handle: u64) -> Stream {
        // SAFETY: the stream is never enqueued to; only its handle is compared.
        let id = unsafe { StreamId::from_raw(handle) };
        // SAFETY: as above.
        unsafe { Stream::from_raw(device, id) }
    }

    #[test]
    fn both_handles_of_the_legacy_stream_are_one_stream_on_every_thread() {
        let device = Device::open("host:vram=2MiB").unwrap();
        let [default, legacy, per_thread] =
            [DEFAULT_HANDLE, LEGACY_HANDLE, PER_THREAD_HANDLE].map(|handle| raw(&device, handle));
        assert_eq!(StreamKey::of(&default), StreamKey::of(&legacy));
        assert_ne!(StreamKey::of(&default), StreamKey::of(&per_thread));
        let there =
            std::thread::scope(|scope| scope.spawn(|| StreamKey::of(&legacy)).join().unwrap());
        assert_eq!(there, StreamKey::of(&default));
    }

    #[test]
    fn the_per_thread_stream_is_another_one_on_every_thread() {
        let device = Device::open("host:vram=2MiB").unwrap();
        let per_thread = raw(&device, PER_THREAD_HANDLE);
        let here = StreamKey::of(&per_thread);
        assert_eq!(here, StreamKey::of(&per_thread));
        assert!(StreamKey::is_per_thread(&per_thread));
        let there =
            std::thread::scope(|scope| scope.spawn(|| StreamKey::of(&per_thread)).join().unwrap());
        assert_ne!(here, there);
        let own = Stream::new(&device, Priority::Normal).unwrap();
        assert_eq!(StreamKey::of(&own), StreamKey::of(&own.clone()));
        assert!(!StreamKey::is_per_thread(&own));
    }
}
