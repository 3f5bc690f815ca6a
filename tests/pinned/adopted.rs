//! Memory of the caller's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use riverbed::base::{DeviceError, Error};
use riverbed::device::host::HostDriver;
use riverbed::device::{Call, Device, Gate, settle};

use crate::support::{Memory, stream, wait_until};
use crate::{host, pool};

/// Bytes that tell when they are gone.
struct Watched(Vec<u8>, Arc<AtomicBool>);

impl AsRef<[u8]> for Watched {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.1.store(true, Ordering::SeqCst);
    }
}

fn watched(len: usize) -> (Watched, Arc<AtomicBool>) {
    let gone = Arc::new(AtomicBool::new(false));
    (Watched(vec![5; len], Arc::clone(&gone)), gone)
}

#[test]
#[expect(unsafe_code, reason = "copies by address")]
fn adopted_memory_lives_until_the_copies_are_done() {
    let device = host();
    let (stream, gate) = (stream(&device), Gate::new(&device).unwrap());
    let pool = pool(&device, "pinned_limit_mb:8");
    let target = Memory::new(&device, 1 << 20);
    let (bytes, gone) = watched(1 << 20);
    let adopted = pool.adopt(bytes);
    assert!(adopted.is_pinned() && adopted.is_settled() && adopted.error().is_none());
    assert!(pool.stats().adopted_bytes >= 1 << 20);
    stream.wait_gate(&gate, 1).unwrap();
    adopted.record_use(&stream).unwrap();
    // SAFETY: both ends live until the copy is done: that is the test.
    unsafe { device.driver().copy_h2d(stream.id(), target.ptr, adopted.as_ptr(), 1 << 20) }
        .unwrap();
    drop(adopted);
    assert!(!settle(Duration::from_millis(20)) && !gone.load(Ordering::SeqCst));
    gate.open(1).unwrap();
    wait_until("the owner is gone", || gone.load(Ordering::SeqCst));
    wait_until("it is unpinned", || pool.stats().adopted_bytes == 0);
    assert_eq!(device.calls().get(Call::Unregister), 1);
}

#[test]
fn slices_are_pinned_behind_and_ranges_tell_how_they_can_be_copied() {
    let device = host();
    let pool = pool(&device, "pinned_limit_mb:8");
    let adopted = pool.adopt_in_background(vec![1u8; 1 << 20], Some(256 << 10)).unwrap();
    adopted.wait();
    assert!(adopted.is_pinned());
    let registered = device.calls().get(Call::Register);
    assert!((4..=5).contains(&registered), "{registered} slices");
    let pieces = adopted.pieces(100..usize::MAX);
    assert_eq!(pieces.len() as u64, registered);
    assert_eq!((pieces[0].range.start, pieces.last().unwrap().range.end), (100, 1 << 20));
    assert!(pieces.windows(2).all(|two| two[0].range.end == two[1].range.start));
    assert!(pieces.iter().all(|piece| piece.is_pinned));
    assert!(adopted.pieces(2 << 20..3 << 20).is_empty());
    drop(adopted);
    wait_until("all is unpinned", || device.calls().get(Call::Unregister) == registered);
}

#[test]
fn what_the_budget_or_the_driver_refuses_stays_as_it_is() {
    let device = host();
    let small = pool(&device, "pinned_limit_mb:1");
    let adopted = small.adopt_in_background(vec![1u8; 2 << 20], Some(256 << 10)).unwrap();
    adopted.wait();
    assert!(matches!(adopted.error(), Some(Error::PinnedBudget { .. })));
    let pinned = adopted.pinned_len();
    assert!((512 << 10..=1 << 20).contains(&pinned), "{pinned}");
    let last = adopted.pieces(pinned - 1..pinned + 5);
    assert_eq!(last.iter().map(|piece| piece.is_pinned).collect::<Vec<_>>(), [true, false]);
    drop(adopted);
    wait_until("the budget is whole", || small.stats().adopted_bytes == 0);

    let driver = HostDriver::new("host", "host:vram=4MiB".parse().unwrap()).unwrap();
    driver.faults().fail_nth(Some(Call::Register), 1, DeviceError::NOT_SUPPORTED);
    let pool = pool(&Device::from_driver(driver), "pinned_limit_mb:8");
    let adopted = pool.adopt(vec![3u8; 100]);
    assert!(!adopted.is_pinned() && adopted[99] == 3);
    assert!(matches!(adopted.error(), Some(Error::Device(_))));
    assert_eq!(pool.stats().adopted_bytes, 0);
}

#[test]
fn free_memory_of_the_pool_makes_room_for_what_is_adopted() {
    let pool = pool(&host(), "pinned_limit_mb:4");
    drop(pool.alloc(4 << 20).unwrap());
    assert!(pool.adopt(vec![1u8; 1 << 20]).is_pinned());
    pool.check().unwrap();
}

#[test]
fn nothing_at_all_can_be_adopted() {
    let pool = pool(&host(), "pinned_limit_mb:4");
    let adopted = pool.adopt(Vec::new());
    assert!(adopted.is_pinned() && adopted.is_empty() && adopted.pieces(0..1).is_empty());
}

#[test]
fn cancelling_and_dropping_end_the_pinning() {
    let device = host();
    let pool = pool(&device, "pinned_limit_mb:64");
    let (bytes, gone) = watched(8 << 20);
    let adopted = pool.adopt_in_background(bytes, Some(4096)).unwrap();
    adopted.cancel();
    adopted.wait();
    assert!(adopted.error().is_none());
    drop(adopted);
    wait_until("the owner is gone", || gone.load(Ordering::SeqCst));
    let (bytes, gone) = watched(8 << 20);
    drop(pool.adopt_in_background(bytes, Some(4096)).unwrap());
    wait_until("the owner is gone", || gone.load(Ordering::SeqCst));
    wait_until("all is unpinned", || pool.stats().adopted_bytes == 0);
}
