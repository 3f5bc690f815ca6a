//! Which way is taken, and what the page cache and memory are left with.

use riverbed::transfer::{DirectReads, DiskBackend, DiskOptions, FaultKind, ReadFault, Urgency};

use super::streaming::{KIB, MIB, assert_says, ends};
use super::weights::{LARGE, Rig, WAYS, Weights, in_memory};

/// Bytes of the file that are in the page cache.
fn cached_bytes(weights: &Weights) -> usize {
    let file = std::fs::File::open(&weights.path).unwrap();
    let len = file.metadata().unwrap().len();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random).unwrap();
    let cached = |at: u64| {
        let mut byte = [0];
        let into = &mut [std::io::IoSliceMut::new(&mut byte)];
        rustix::io::preadv2(&file, into, at, rustix::io::ReadWriteFlags::NOWAIT) == Ok(1)
    };
    // From the end, because a read that finds nothing may begin to read ahead.
    let pages: Vec<u64> = (0..len.div_ceil(4096)).rev().map(|page| page * 4096).collect();
    pages.into_iter().filter(|&at| cached(at)).count() * 4096
}

#[test]
fn what_was_said_is_what_is_done() {
    let weights = Weights::new(&[LARGE]);
    for (text, backend) in
        [("io_uring", DiskBackend::IoUring), ("threads,depth=3", DiskBackend::Threads)]
    {
        let rig = Rig::new(&weights, text);
        assert_eq!(rig.loader.disk().backend, backend);
        assert!(!rig.loader.disk().why.is_empty());
    }
    let rig = Rig::new(&weights, "threads,direct=off,depth=3");
    let report = rig.loader.disk();
    assert!(!report.direct && report.depth == 3 && report.threads == 3, "{report}");
    assert_says(&report.to_string(), &["threads", "buffered", "3 deep", "direct reads are off"]);
}

#[test]
fn options_out_of_range_are_refused_also_when_they_were_never_text() {
    let weights = Weights::new(&[10]);
    let mut options = DiskOptions::default();
    options.depth = 0;
    let error = Rig::build(&weights, options, 64 * KIB, &[]).err().unwrap();
    assert_says(&error.to_string(), &["depth", "'0'", "1 to 256"]);
}

#[test]
fn files_in_memory_are_read_from_there_and_direct_reads_of_them_are_no_condition() {
    ends(|| {
        let Some(place) = in_memory() else { return };
        let weights = Weights::at(place, &[LARGE]);
        let mut rig = Rig::new(&weights, "auto");
        assert_says(&rig.loader.disk().why, &["the files are in memory"]);
        assert!(rig.loader.disk().threads <= 2, "nobody waits for a disk");
        let layout = weights.whole();
        weights.verify(&layout, &rig.load_layout(&layout).unwrap());
    });
}

#[test]
fn a_cold_file_leaves_nothing_in_the_page_cache() {
    ends(|| {
        for disk in WAYS {
            let weights = Weights::new(&[3 * LARGE]);
            weights.make_cold();
            let mut rig = Rig::build(&weights, disk.parse().unwrap(), MIB, &[]).unwrap();
            let layout = weights.whole();
            weights.verify(&layout, &rig.load_layout(&layout).unwrap());
            let left = cached_bytes(&weights);
            // The trial reads at the start, and pages two pieces share.
            assert!(left <= 128 << 10, "{disk}: {left} bytes");
        }
    });
}

#[test]
fn direct_reads_that_are_refused_after_all_go_through_the_page_cache() {
    ends(|| {
        let weights = Weights::new(&[LARGE]);
        let byte = weights.offset(0) + 500_000;
        let kind = FaultKind::Errno(22); // EINVAL
        let fault = ReadFault { file: 0, byte, kind, times: 1 };
        for disk in ["io_uring", "threads"] {
            weights.make_cold();
            let options: DiskOptions = disk.parse().unwrap();
            let options = options.direct(DirectReads::Auto);
            let mut rig = Rig::build(&weights, options, 128 * KIB, &[fault]).unwrap();
            if !rig.loader.disk().direct {
                return;
            }
            let layout = weights.whole();
            weights.verify(&layout, &rig.load_layout(&layout).unwrap());
            weights.verify(&layout, &rig.load_layout(&layout).unwrap());
        }
    });
}

#[test]
fn the_window_is_all_the_pinned_memory_a_load_takes() {
    ends(|| {
        for disk in WAYS {
            let weights = Weights::new(&[5 * LARGE]);
            let mut rig = Rig::new(&weights, disk);
            rig.loader.wait_for_homes();
            let before = rig.pinned.stats();
            let layout = weights.whole();
            let plan = rig.loader.plan(&layout);
            let buffer = rig.buffer(&plan);
            let plan = rig.loader.plan(&layout);
            let status = rig.loader.load_buffer(&buffer, &plan, None, Urgency::Ahead).unwrap();
            rig.loader.stream().synchronize().unwrap();
            status.check().unwrap();
            let after = rig.pinned.stats();
            assert_eq!(after.reserved_bytes, before.reserved_bytes, "{disk}");
            assert!(before.active_bytes <= 7 * (128 + 16) * KIB, "{disk}: {before:?}");
        }
    });
}
