//! What requests say of themselves, and where it is seen.

use riverbed::device::Gate;
use riverbed::pool::{AllocOptions, Lifetime, PrivatePoolOptions};

use crate::heard::Heard;
use crate::support::{MIB, stream};
use crate::{allocator, check, device};

fn weight(tag: &str) -> AllocOptions {
    AllocOptions::default().lifetime(Lifetime::Weight).tag(tag)
}

#[test]
fn bytes_are_counted_by_lifetime_with_their_peak() {
    let device = device(64);
    let (allocator, home, other) = (allocator(&device, ""), stream(&device), stream(&device));
    let scratch = AllocOptions::default().lifetime(Lifetime::Scratch);
    let weights = allocator.alloc_with::<u8>(3 << 20, &home, &weight("a")).unwrap();
    let on_home = allocator.on(&home).unwrap();
    let raw = on_home.alloc_raw_with(1000, &scratch).unwrap();
    let used = on_home.alloc_with::<u8>(2000, &scratch).unwrap();
    let _silent = on_home.alloc::<u8>(4000).unwrap();
    let bytes = |lifetime: Lifetime| {
        let found = allocator.lifetimes().into_iter().find(|one| one.lifetime == lifetime);
        let stat = found.unwrap().allocated_bytes;
        (stat.current, stat.peak)
    };
    assert_eq!(bytes(Lifetime::Weight), (3 * MIB, 3 * MIB));
    assert_eq!(bytes(Lifetime::Scratch), (1024 + 2048, 1024 + 2048));
    assert_eq!(bytes(Lifetime::Cache), (0, 0));
    // A block that others still use has left its owner all the same.
    let gate = Gate::new(&device).unwrap();
    other.wait_gate(&gate, 1).unwrap();
    used.record_use(&other).unwrap();
    allocator.record_use_raw(raw, &other).unwrap();
    drop((used, weights));
    #[expect(unsafe_code, reason = "nothing uses the block")]
    // SAFETY: no work was ever enqueued on the block.
    unsafe { allocator.free_raw(raw) }.unwrap();
    assert_eq!(allocator.stats().retired_bytes, 3072);
    assert_eq!(bytes(Lifetime::Scratch), (0, 3072));
    assert_eq!(bytes(Lifetime::Weight), (0, 3 * MIB));
    check(&allocator);
    gate.open(1).unwrap();
    other.synchronize().unwrap();
    allocator.reset_peak_stats();
    assert_eq!(bytes(Lifetime::Weight), (0, 0));
    check(&allocator);
}

#[test]
fn live_blocks_are_told_with_all_that_is_known() {
    let device = device(64);
    let (allocator, stream) = (allocator(&device, ""), stream(&device));
    let pool = allocator.private_pool(PrivatePoolOptions::default());
    let large = allocator.alloc_with::<u8>(3 << 20, &stream, &weight("blocks.0")).unwrap();
    let small = pool.on(&stream).unwrap().alloc::<u8>(1000).unwrap();
    drop(allocator.alloc_with::<u8>(500, &stream, &weight("gone")).unwrap());
    let live = allocator.live_blocks();
    let [first, second] = &live[..] else { panic!("two were expected: {live:?}") };
    assert_eq!((first.ptr, first.bytes, first.requested_bytes), (large.ptr(), 3 * MIB, 3 * MIB));
    assert_eq!((first.lifetime, first.tag.as_deref()), (Some(Lifetime::Weight), Some("blocks.0")));
    assert_eq!((second.ptr, second.requested_bytes), (small.ptr(), 1000));
    assert_eq!((first.pool, second.pool), (None, Some(pool.id())));
    assert_eq!((second.lifetime, second.tag.as_deref()), (None, None));
    let again = allocator.alloc::<u8>(500, &stream).unwrap();
    let again = allocator.live_blocks().into_iter().find(|block| block.ptr == again.ptr());
    assert_eq!(again.unwrap().tag, None, "the label went with its block");
}

#[test]
fn running_out_tells_who_asked_and_what_holds_the_memory() {
    let device = device(64);
    let (allocator, stream) = (allocator(&device, "limit_mb:40"), stream(&device));
    let _weights = allocator.alloc_with::<u8>(12 << 20, &stream, &weight("w")).unwrap();
    let pool = allocator.private_pool(PrivatePoolOptions::default());
    drop(pool.on(&stream).unwrap().alloc::<u8>(20 << 20).unwrap());
    let cache = AllocOptions::default().lifetime(Lifetime::Cache).tag("kv 7");
    let asked = |mib: usize| {
        allocator.alloc_with::<u8>(mib << 20, &stream, &cache).unwrap_err().to_string()
    };
    let text = asked(18);
    for words in [
        "(a segment of 18.00 MiB) as cache 'kv 7'.",
        "active 12.00 MiB (weight 12.00 MiB), retired 0 B",
        "cached 20.00 MiB (largest free block 0 B; 20.00 MiB in private pools)",
        "Private pools have it free: trim them, or let them lend",
    ] {
        assert!(text.contains(words), "'{words}' is not in: {text}");
    }
    let text = asked(22);
    assert!(
        text.contains("raise it or free memory; or try the conf string 'limit_mb:54'"),
        "{text}"
    );
}

#[test]
fn fragmentation_comes_with_a_conf_that_helps() {
    let device = device(140);
    let (allocator, stream) = (allocator(&device, ""), stream(&device));
    drop(allocator.alloc::<u8>(140 << 20, &stream).unwrap());
    let [first, _second, third] =
        [(); 3].map(|()| allocator.alloc::<u8>(45 << 20, &stream).unwrap());
    drop((first, third));
    let text = allocator.alloc::<u8>(60 << 20, &stream).unwrap_err().to_string();
    assert!(text.contains("lie in pieces") && text.contains("or try the conf string '"), "{text}");
}

#[test]
fn raw_blocks_that_were_never_freed_are_named_when_the_allocator_goes() {
    let device = device(64);
    let (allocator, stream) = (allocator(&device, ""), stream(&device));
    let (heard, lines) = Heard::new();
    let leaked = allocator.alloc_raw_with(5 << 20, &stream, &weight("lost")).unwrap();
    let small: Vec<_> = (0..11).map(|_| allocator.alloc_raw(1000, &stream).unwrap()).collect();
    tracing::subscriber::with_default(heard, || drop(allocator));
    let lines = lines.lock().unwrap();
    let [line] = &lines[..] else { panic!("one warning was expected: {lines:?}") };
    let named = small.iter().filter(|ptr| line.contains(&format!("{:#x}", ptr.0))).count();
    assert_eq!(named, 9, "ten are named, the largest first: {line}");
    for words in [
        "blocks=12 ".to_string(),
        format!("bytes={} ", 5 * MIB + 11_000),
        format!("largest=\"{:#x} 5.00 MiB on stream ", leaked.0),
        "weight 'lost'".to_string(),
        "were never freed".to_string(),
    ] {
        assert!(line.contains(&words), "'{words}' is not in: {line}");
    }
}
