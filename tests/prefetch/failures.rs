//! Loads that fail: who is told, when, and how it goes on.

use riverbed::Error;
use riverbed::device::Gate;

use super::streaming::{Content, KIB, Rig, Setup, assert_says, ends};

fn layers() -> Content {
    Content::layers(&[&[100_000], &[150_000], &[70_000], &[150_000]])
}

#[test]
fn a_file_cut_short_poisons_its_leases_and_nothing_else() {
    ends(|| {
        for (depth, keep) in [(0, false), (0, true), (2, false), (2, true)] {
            let content = layers();
            let whole = content.file();
            let ring = content.packed().iter().sum();
            let rig = Rig::new(&content, Setup::ring(ring).depth(depth).keep(keep));
            content.cut_before_end_of(2);
            let mut sums = rig.sums();
            for unit in 0..2 {
                sums.enqueue(&rig.prefetcher.acquire(unit, &rig.stream).unwrap(), &content);
            }
            let poisoned = match rig.prefetcher.acquire(2, &rig.stream) {
                Ok(lease) => {
                    rig.stream.synchronize().unwrap();
                    let error = lease.status().unwrap_err();
                    let waited = lease.wait_host().err().unwrap();
                    assert_eq!(error.to_string(), waited.to_string());
                    Some(error)
                }
                Err(error) => {
                    assert!(depth > 0, "without loading ahead nobody can know yet: {error}");
                    None
                }
            };
            let tensor = &content.model.tensors()[2];
            if let Some(error) = &poisoned {
                assert_says(&error.to_string(), &["model.safetensors", "byte "]);
                let Error::File(file) = error else { panic!("{error}") };
                let offset = file.offset.unwrap();
                let end = tensor.offset_bytes + tensor.len_bytes;
                assert!((tensor.offset_bytes..end).contains(&offset), "{offset}");
            }
            let report = rig.prefetcher.finish_pass(&rig.stream).unwrap();
            assert_eq!(report.failures.len(), usize::from(poisoned.is_some()));
            if let Some((name, error)) = report.failures.first() {
                assert_eq!(name, "layers.2");
                assert_eq!(error.to_string(), poisoned.as_ref().unwrap().to_string());
                assert!(report.clone().into_result().is_err());
                let error = rig.prefetcher.acquire(2, &rig.stream).unwrap_err().to_string();
                assert_says(&error, &["model.safetensors", "byte "]);
            }
            assert_eq!(sums.verify(), 2);

            // Whole again: asking again loads again, once the failure has been told.
            std::fs::write(&content.path, &whole).unwrap();
            for unit in 0..4 {
                let mut lease = rig.prefetcher.acquire(unit, &rig.stream);
                rig.stream.synchronize().unwrap();
                if lease.as_ref().map_or(true, |lease| lease.status().is_err()) {
                    assert!(unit >= 2, "unit {unit}");
                    drop(lease);
                    let _told = rig.prefetcher.acquire(unit, &rig.stream);
                    lease = rig.prefetcher.acquire(unit, &rig.stream);
                    rig.stream.synchronize().unwrap();
                }
                let lease = lease.unwrap();
                lease.status().unwrap();
                sums.enqueue(&lease, &content);
            }
            assert_eq!(sums.verify(), 4);
        }
    });
}

#[test]
fn a_failure_is_told_by_acquire_even_after_the_units_room_was_used_again() {
    ends(|| {
        for keep in [false, true] {
            let content = layers();
            let whole = content.file();
            let ring = content.largest();
            let rig = Rig::new(&content, Setup::ring(ring).depth(0).keep(keep));
            content.cut_before_end_of(3);
            drop(rig.prefetcher.acquire(3, &rig.stream).unwrap());
            let report = rig.prefetcher.finish_pass(&rig.stream).unwrap();
            assert_eq!(report.failures.len(), 1);
            // One slot: this takes the failed unit's room.
            drop(rig.prefetcher.acquire(0, &rig.stream).unwrap());
            std::fs::write(&content.path, &whole).unwrap();
            let mut sums = rig.sums();
            let lease = rig.prefetcher.acquire(3, &rig.stream);
            let lease = lease.or_else(|_| rig.prefetcher.acquire(3, &rig.stream)).unwrap();
            lease.wait_host().unwrap();
            sums.enqueue(&lease, &content);
            assert_eq!(sums.verify(), 1, "keep {keep}");
        }
    });
}

#[test]
fn a_failed_unit_that_is_still_leased_is_told_of_and_stays() {
    ends(|| {
        let content = layers();
        let whole = content.file();
        let rig = Rig::new(&content, Setup::ring(2 * content.largest()).depth(0));
        content.cut_before_end_of(1);
        let first = rig.prefetcher.acquire(1, &rig.stream).unwrap();
        rig.stream.synchronize().unwrap();
        assert!(first.status().is_err());
        std::fs::write(&content.path, whole).unwrap();
        assert!(rig.prefetcher.acquire(1, &rig.stream).is_err());
        assert_eq!(rig.prefetcher.stats().loads, 1);
        drop(first);
        assert!(rig.prefetcher.acquire(1, &rig.stream).is_err(), "told once more");
        let again = rig.prefetcher.acquire(1, &rig.stream).unwrap();
        assert!(again.wait_host().is_ok());
        assert_eq!(rig.prefetcher.stats().loads, 2);
    });
}

#[test]
fn a_failure_is_reported_once() {
    ends(|| {
        let content = layers();
        let rig = Rig::new(&content, Setup::ring(2 * content.largest()).depth(0));
        content.cut_before_end_of(0);
        for _ in 0..2 {
            let _ = rig.prefetcher.acquire(0, &rig.stream);
            let _ = rig.prefetcher.acquire(1, &rig.stream);
        }
        let report = rig.prefetcher.finish_pass(&rig.stream).unwrap();
        let names: Vec<&str> = report.failures.iter().map(|(name, _)| &name[..]).collect();
        assert!(names.contains(&"layers.0") && names.contains(&"layers.1"), "{names:?}");
        assert!(rig.prefetcher.finish_pass(&rig.stream).unwrap().failures.is_empty());
    });
}

#[test]
fn every_gate_opens_though_every_read_fails() {
    ends(|| {
        for threads_busy in [1, 5] {
            let content = layers();
            let setup = Setup::ring(2 * content.largest()).depth(4).pinned(128 * KIB);
            let rig = Rig::new(&content, setup);
            std::fs::OpenOptions::new()
                .write(true)
                .open(&content.path)
                .unwrap()
                .set_len(8)
                .unwrap();
            let mut told = 0;
            for _ in 0..threads_busy {
                for unit in 0..4 {
                    match rig.prefetcher.acquire(unit, &rig.stream) {
                        Ok(lease) => drop(lease),
                        Err(error) => {
                            told += 1;
                            assert!(matches!(error, Error::File(_)), "{error}");
                        }
                    }
                }
            }
            let report = rig.prefetcher.finish_pass(&rig.stream).unwrap();
            assert!(report.failures.len() + told >= 4, "{told} + {:?}", report.failures);
        }
    });
}

#[test]
fn cancelling_poisons_what_is_not_read_opens_the_gates_and_refuses_new_leases() {
    ends(|| {
        // Four chunks of 64 KiB through a window of two slots that nobody drains yet: what was
        // not read when it is cancelled never is.
        let content = Content::layers(&[&[256 * KIB as usize], &[1000]]);
        let setup = Setup::ring(2 * content.largest()).depth(0).pinned(128 * KIB);
        let rig = Rig::new(&content, setup);
        let gate = Gate::new(&rig.device).unwrap();
        rig.stream.wait_gate(&gate, 1).unwrap();
        let lease = rig.prefetcher.acquire(0, &rig.stream).unwrap();
        rig.prefetcher.cancel();
        let error = rig.prefetcher.acquire(1, &rig.stream).unwrap_err();
        assert!(matches!(error, Error::Cancelled), "{error}");
        gate.open(1).unwrap();
        rig.stream.synchronize().unwrap();
        assert!(matches!(lease.status(), Err(Error::Cancelled)));
        assert!(matches!(lease.wait_host(), Err(Error::Cancelled)));
        drop(lease);
        let report = rig.prefetcher.finish_pass(&rig.stream).unwrap();
        assert!(matches!(report.into_result(), Err(Error::Cancelled)));
    });
}

#[test]
fn a_file_that_changed_its_length_before_streaming_began_is_refused() {
    let content = layers();
    content.cut_before_end_of(3);
    let error = Rig::build(&content, Setup::ring(2 * content.largest())).unwrap_err();
    assert_says(
        &error.to_string(),
        &["model.safetensors", "bytes now", "when its header was read"],
    );
}
