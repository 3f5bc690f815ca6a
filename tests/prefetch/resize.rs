//! Rings made of the allocator's memory: units across the end, other sizes, other units.
#![expect(unsafe_code, reason = "a transform enqueues work by address")]

use std::sync::Arc;

use riverbed::device::{Call, Device, Stream};
use riverbed::pinned::PinnedPool;
use riverbed::pool::Allocator;
use riverbed::prefetch::{
    Change, Lease, PrefetchOptions, Prefetcher, RingMemory, TensorRef, Transform,
};
use riverbed::transfer::{Files, Loader, LoaderOptions};
use riverbed::weights::{Dtype, Tensor, Unit};
use riverbed::{Error, Result};

use super::streaming::{
    Content, KIB, MIB, Random, Sums, assert_says, ends, eventually, host, stream, waits,
};

/// No unit ends where a page does.
fn layers() -> Content {
    Content::layers(&[
        &[1_500_000],
        &[700_000],
        &[900_000, 1_000_000],
        &[1],
        &[300_000],
        &[1_200_000],
    ])
}

/// A prefetcher over memory of an allocator that may hold so much, with chunks of 64 KiB.
struct Resizable {
    device: Device,
    allocator: Allocator,
    pinned: PinnedPool,
    prefetcher: Prefetcher,
    stream: Stream,
}

impl Resizable {
    fn build(
        content: &Content,
        units: &[Unit],
        ring_bytes: u64,
        conf: &str,
        prefetch: PrefetchOptions,
    ) -> Result<Self> {
        Self::changed(content, units, ring_bytes, conf, prefetch, None)
    }

    fn changed(
        content: &Content,
        units: &[Unit],
        ring_bytes: u64,
        conf: &str,
        prefetch: PrefetchOptions,
        transform: Option<Arc<dyn Transform>>,
    ) -> Result<Self> {
        let (device, _) = host(64);
        let pinned = PinnedPool::new(&device, &"pinned_limit_mb:32".parse()?);
        let allocator =
            Allocator::builder(&device).conf_str(conf)?.limit_bytes(16 * MIB)?.build()?;
        let options = LoaderOptions { chunk_bytes: 64 * KIB, ..LoaderOptions::default() };
        let loader = Loader::new(&device, &pinned, Files::open(&content.model)?, options)?;
        let (stream, model) = (stream(&device), Arc::clone(&content.model));
        let ring = RingMemory::of(&allocator, ring_bytes, &stream);
        let prefetcher = match transform {
            Some(transform) => {
                Prefetcher::with_transform(model, units, ring, loader, prefetch, &transform)
            }
            None => Prefetcher::new(model, units, ring, loader, prefetch),
        }?;
        Ok(Self { device, allocator, pinned, prefetcher, stream })
    }

    fn new(content: &Content, ring_bytes: u64) -> Self {
        let options = PrefetchOptions::default();
        Self::build(content, content.units(), ring_bytes, "", options).unwrap()
    }

    fn pass(&self, content: &Content, sums: &mut Sums) {
        for unit in 0..self.prefetcher.units().len() {
            let lease = self.prefetcher.acquire(unit, &self.stream).unwrap();
            sums.enqueue(&lease, content);
        }
        self.prefetcher.finish_pass(&self.stream).unwrap().into_result().unwrap();
        self.prefetcher.check().unwrap();
        self.allocator.check().unwrap();
    }

    fn reserved_bytes(&self) -> u64 {
        self.allocator.stats().reserved_bytes.all.current
    }

    fn acquire(&self, unit: usize) -> Result<Lease> {
        self.prefetcher.acquire(unit, &self.stream)
    }
}

#[test]
fn units_that_lie_across_the_end_show_the_bytes_of_the_file() {
    ends(|| {
        let content = layers();
        for ring_mib in [2, 4, 6] {
            for (stable_addresses, timing) in [(false, true), (true, false)] {
                let options =
                    PrefetchOptions { stable_addresses, timing, ..PrefetchOptions::default() };
                let units = content.units();
                let built = Resizable::build(&content, units, ring_mib * MIB, "", options);
                // In two pages there is no room for neighbours apart.
                let Ok(rig) = built else { continue };
                let mut sums = Sums::new(&rig.device);
                for _ in 0..4 {
                    rig.pass(&content, &mut sums);
                    assert_eq!(sums.verify(), content.bytes.len());
                }
                assert_eq!(rig.prefetcher.ring_bytes(), ring_mib * MIB);
                assert_eq!(rig.reserved_bytes(), ring_mib * MIB, "counted once");
            }
        }
    });
}

#[test]
fn a_steady_pass_through_a_ring_that_goes_round_makes_nobody_wait() {
    ends(|| {
        let content = layers();
        let rig = Resizable::new(&content, 4 * MIB);
        let mut sums = Sums::new(&rig.device);
        rig.pass(&content, &mut sums);
        rig.prefetcher.wait_for_homes();
        rig.pass(&content, &mut sums);
        for _ in 0..3 {
            let calls = rig.device.calls();
            let before = (calls.sum(Call::ALLOCATING), waits(&rig.device));
            for unit in 0..content.units().len() {
                sums.enqueue(&rig.acquire(unit).unwrap(), &content);
            }
            let after = (calls.sum(Call::ALLOCATING), waits(&rig.device));
            assert_eq!(after, before);
            rig.prefetcher.finish_pass(&rig.stream).unwrap();
        }
        sums.verify();
    });
}

#[test]
fn a_ring_gives_pages_back_and_takes_them_again() {
    ends(|| {
        let content = layers();
        for conf in ["", "policy:expandable", "policy:mempool"] {
            let options = PrefetchOptions::default();
            let units = content.units();
            let rig = Resizable::build(&content, units, 8 * MIB, conf, options).unwrap();
            let mut sums = Sums::new(&rig.device);
            for ring_mib in [8, 2, 6, 4, 12, 2] {
                let bytes = rig.prefetcher.resize(ring_mib * MIB).unwrap();
                assert_eq!((bytes, rig.prefetcher.ring_bytes()), (ring_mib * MIB, bytes), "{conf}");
                eventually("what went is back", || {
                    rig.allocator.trim(); // The driver's own pool keeps what it was given.
                    rig.reserved_bytes() == bytes
                });
                rig.prefetcher.check().unwrap();
                rig.pass(&content, &mut sums);
                assert_eq!(sums.verify(), content.bytes.len(), "{conf}, {ring_mib} MiB");
            }
        }
    });
}

#[test]
fn a_ring_without_room_to_grow_stays_as_it_is() {
    ends(|| {
        let content = layers();
        let rig = Resizable::new(&content, 4 * MIB);
        let other = rig.allocator.alloc_dedicated::<u8>(10 << 20, &rig.stream).unwrap();
        assert_eq!(rig.prefetcher.resize(8 * MIB).unwrap(), 4 * MIB, "the limit is 16 MiB");
        assert_eq!(rig.prefetcher.resize(6 * MIB).unwrap(), 6 * MIB);
        let error = rig.prefetcher.resize(MIB).unwrap_err().to_string();
        assert_says(&error, &["layers.2", "can never fit"]);
        assert_eq!(rig.prefetcher.ring_bytes(), 6 * MIB);
        let mut sums = Sums::new(&rig.device);
        rig.pass(&content, &mut sums);
        assert_eq!(sums.verify(), content.bytes.len());
        assert!(rig.allocator.stats().reserved_bytes.all.peak <= 16 * MIB);
        drop(other);
    });
}

#[test]
fn a_ring_of_a_buffer_has_the_size_it_has() {
    ends(|| {
        let content = layers();
        let rig = super::streaming::Rig::new(&content, super::streaming::Setup::ring(4 * MIB));
        let error = rig.prefetcher.resize(6 * MIB).unwrap_err().to_string();
        assert_says(&error, &["RingMemory"]);
    });
}

#[test]
fn what_is_leased_stays_where_it_is_while_the_ring_shrinks_beside_it() {
    ends(|| {
        let content = layers();
        let rig = Resizable::new(&content, 8 * MIB);
        let mut sums = Sums::new(&rig.device);
        let first = rig.acquire(0).unwrap();
        let later = rig.acquire(2).unwrap();
        let at = first.tensors().next().unwrap().ptr;
        let error = rig.prefetcher.resize(2 * MIB).unwrap_err().to_string();
        assert_says(&error, &["layers.2", "leased", "drop the lease first"]);
        assert_eq!(rig.prefetcher.ring_bytes(), 8 * MIB);
        sums.enqueue(&later, &content);
        drop(later);
        assert_eq!(rig.prefetcher.resize(2 * MIB).unwrap(), 2 * MIB);
        assert_eq!(first.tensors().next().unwrap().ptr, at);
        sums.enqueue(&first, &content);
        drop(first);
        rig.pass(&content, &mut sums);
        assert_eq!(sums.verify(), content.bytes.len() + 3);
    });
}

#[test]
fn a_unit_is_loaded_as_far_as_a_live_lease_lets_it_and_its_rest_when_that_is_back() {
    ends(|| {
        let content = Content::layers(&[&[1_500_000], &[1_200_000], &[1_000_000]]);
        let sizes = content.packed();
        let rig = Resizable::new(&content, 2 * MIB);
        let mut sums = Sums::new(&rig.device);
        let moved = || rig.prefetcher.stats().bytes_moved;
        let first = rig.acquire(0).unwrap();
        let half = moved() - sizes[0];
        assert!(half > 0 && half <= 2 * MIB - sizes[0], "{half} bytes of the second one");
        rig.prefetcher.check().unwrap();
        assert!(matches!(rig.acquire(1).unwrap_err(), Error::RingHeld { .. }));
        rig.prefetcher.check().unwrap();
        sums.enqueue(&first, &content);
        drop(first);
        assert!(moved() >= sizes[0] + sizes[1], "the rest, or all of it again");
        for _ in 0..2 {
            for unit in [0, 1, 2] {
                sums.enqueue(&rig.acquire(unit).unwrap(), &content);
            }
        }
        let failures = rig.prefetcher.finish_pass(&rig.stream).unwrap().failures;
        assert!(failures.is_empty());
        assert_eq!(sums.verify(), 7);
    });
}

#[test]
fn a_half_whose_reading_fails_is_told_of_and_read_again() {
    ends(|| {
        let content = Content::layers(&[&[1_500_000], &[1_200_000], &[1_000_000]]);
        let whole = content.file();
        let units = content.units();
        let options = PrefetchOptions { keep_in_ram: false, ..PrefetchOptions::default() };
        let rig = Resizable::build(&content, units, 2 * MIB, "", options).unwrap();
        let mut sums = Sums::new(&rig.device);
        content.cut_before_end_of(1);
        let first = rig.acquire(0).unwrap();
        sums.enqueue(&first, &content);
        drop(first);
        // Known by the time it is asked for, or told at the end of the pass.
        let second = rig.acquire(1);
        let is_known = second.is_err();
        drop(second);
        let report = rig.prefetcher.finish_pass(&rig.stream).unwrap();
        assert!(is_known || report.failures.iter().any(|(unit, _)| unit == "layers.1"));
        std::fs::write(&content.path, whole).unwrap();
        rig.prefetcher.check().unwrap();
        eventually("it is read again", || rig.acquire(1).is_ok());
        sums.verify();
        rig.prefetcher.finish_pass(&rig.stream).unwrap();
        for unit in [1, 2, 0] {
            sums.enqueue(&rig.acquire(unit).unwrap(), &content);
        }
        rig.prefetcher.finish_pass(&rig.stream).unwrap().into_result().unwrap();
        assert_eq!(sums.verify(), 3);
    });
}

#[test]
fn units_change_and_what_stays_the_same_keeps_its_home() {
    ends(|| {
        let content = layers();
        let rig = Resizable::new(&content, 4 * MIB);
        let mut sums = Sums::new(&rig.device);
        rig.pass(&content, &mut sums);
        rig.prefetcher.wait_for_homes();
        rig.pass(&content, &mut sums);
        sums.verify();
        let pinned_bytes = rig.pinned.stats().active_bytes;
        let mut units = content.units().to_vec();
        // One half of a layer stays on the device from now on, and all of another.
        units[2].tensors.pop();
        units[4].tensors.clear();
        let lease = rig.acquire(0).unwrap();
        let error = rig.prefetcher.reconfigure(&units).unwrap_err().to_string();
        assert_says(&error, &["layers.0", "lease"]);
        drop(lease);
        rig.prefetcher.reconfigure(&units).unwrap();
        rig.prefetcher.check().unwrap();
        assert_eq!(rig.prefetcher.units()[4].1, 0);
        rig.pass(&content, &mut sums);
        assert_eq!(sums.verify(), content.bytes.len() - 2);
        rig.prefetcher.wait_for_homes();
        let now = rig.pinned.stats().active_bytes;
        assert!(now < pinned_bytes, "{now} of {pinned_bytes} bytes");
        // Fewer units in another order, then all again.
        let some = [units[5].clone(), units[0].clone()];
        rig.prefetcher.reconfigure(&some).unwrap();
        rig.pass(&content, &mut sums);
        assert_eq!(sums.verify(), 2);
        rig.prefetcher.reconfigure(content.units()).unwrap();
        rig.pass(&content, &mut sums);
        assert_eq!(sums.verify(), content.bytes.len());
        let error = rig.prefetcher.reconfigure(&[]).unwrap_err().to_string();
        assert_says(&error, &["units", "at least one"]);
        rig.pass(&content, &mut sums);
        assert_eq!(sums.verify(), content.bytes.len());
    });
}

#[test]
fn a_unit_without_tensors_costs_nothing() {
    ends(|| {
        let content = layers();
        let mut units = content.units().to_vec();
        units[1].tensors.clear();
        let options = PrefetchOptions { keep_in_ram: false, ..PrefetchOptions::default() };
        // All of them are there once the first was asked for.
        let rig = Resizable::build(&content, &units, 8 * MIB, "", options).unwrap();
        drop(rig.acquire(0).unwrap());
        let order = [Call::RecordEvent, Call::WaitEvent, Call::WaitGate, Call::CopyH2d];
        let before = rig.device.calls().sum(&order);
        let lease = rig.acquire(1).unwrap();
        assert_eq!(lease.tensors().len(), 0);
        drop(lease);
        assert_eq!(rig.device.calls().sum(&order), before);
        assert_eq!(rig.prefetcher.stats().demand_loads, 1);
        let mut sums = Sums::new(&rig.device);
        rig.pass(&content, &mut sums);
        assert_eq!(sums.verify(), content.bytes.len() - 1);
    });
}

#[test]
fn random_sizes_units_and_leases_show_the_bytes_of_the_file() {
    ends(|| {
        let mut random = Random::from_env(11);
        let content = layers();
        let count = content.units().len();
        for _ in 0..4 {
            let options = PrefetchOptions {
                keep_in_ram: random.below(2) == 0,
                timing: random.below(2) == 0,
                depth: [1, usize::MAX][random.below(2)],
                ..PrefetchOptions::default()
            };
            let units = content.units();
            let rig = Resizable::build(&content, units, 4 * MIB, "", options).unwrap();
            let mut sums = Sums::new(&rig.device);
            let mut held: Vec<Lease> = Vec::new();
            for step in 0..90 {
                match random.below(12) {
                    0 => {
                        let bytes = 2 * MIB * (1 + random.below(5)) as u64;
                        if rig.prefetcher.resize(bytes).is_err() {
                            held.clear();
                        }
                    }
                    1 if held.is_empty() => {
                        let mut units = content.units().to_vec();
                        for unit in &mut units {
                            if random.below(3) == 0 {
                                unit.tensors.pop();
                            }
                        }
                        rig.prefetcher.reconfigure(&units).unwrap();
                    }
                    2 => {
                        rig.prefetcher.finish_pass(&rig.stream).unwrap().into_result().unwrap();
                        sums.verify();
                    }
                    3..6 if !held.is_empty() => {
                        let lease = held.swap_remove(random.below(held.len()));
                        sums.enqueue(&lease, &content);
                    }
                    _ => {
                        let unit =
                            if random.below(4) == 0 { random.below(count) } else { step % count };
                        match rig.acquire(unit) {
                            Ok(lease) => held.push(lease),
                            Err(Error::RingHeld { .. }) => held.clear(),
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
                rig.prefetcher.check().unwrap();
            }
            held.clear();
            rig.prefetcher.finish_pass(&rig.stream).unwrap().into_result().unwrap();
            sums.verify();
            rig.allocator.check().unwrap();
            let (device, allocator) = (rig.device.clone(), rig.allocator.clone());
            drop(rig);
            eventually("all of the ring is given back", || {
                allocator.stats().reserved_bytes.all.current == 0
            });
            drop((allocator, device));
        }
    });
}

/// Makes of each tensor one that is it twice.
#[derive(Debug)]
struct Twice;

impl Transform for Twice {
    fn plan(&self, tensor: &Tensor) -> Result<Change> {
        Ok(Change::Into { dtype: Dtype::U8, shape: vec![2 * tensor.len_bytes] })
    }

    unsafe fn enqueue(
        &self,
        stream: &Stream,
        source: &TensorRef<'_>,
        target: &TensorRef<'_>,
    ) -> Result<()> {
        let bytes = source.len_bytes;
        for half in [target.ptr, target.ptr.offset(bytes)] {
            // SAFETY: the caller's promise; the target is twice as long as the source.
            unsafe { stream.device().driver().copy_d2d(stream.id(), half, source.ptr, bytes) }?;
        }
        Ok(())
    }
}

#[test]
fn what_is_made_of_units_lies_across_the_end_and_the_raw_bytes_beside_the_ring() {
    ends(|| {
        let content =
            Content::layers(&[&[700_000], &[300_000, 400_000], &[1], &[900_000], &[500_000]]);
        let options = PrefetchOptions { timing: true, ..PrefetchOptions::default() };
        for conf in ["", "policy:mempool"] {
            let (units, twice) = (content.units(), Some(Arc::new(Twice) as Arc<dyn Transform>));
            let rig = Resizable::changed(&content, units, 6 * MIB, conf, options, twice).unwrap();
            let pass = || {
                for unit in 0..units.len() {
                    let lease = rig.acquire(unit).unwrap();
                    let view = lease.wait_host().unwrap();
                    for tensor in lease.tensors() {
                        let file = &content.bytes[tensor.name];
                        let shown = view.bytes(tensor.name).unwrap();
                        assert!(shown == [&file[..], &file[..]].concat(), "{}", tensor.name);
                    }
                }
                rig.prefetcher.finish_pass(&rig.stream).unwrap().into_result().unwrap();
                rig.prefetcher.check().unwrap();
            };
            pass();
            pass();
            for ring_mib in [8, 4] {
                assert!(rig.prefetcher.resize(ring_mib * MIB).unwrap() <= ring_mib * MIB);
                pass();
            }
            let mut fewer = units.to_vec();
            fewer[3].tensors.clear();
            rig.prefetcher.reconfigure(&fewer).unwrap();
            pass();
            rig.prefetcher.reconfigure(units).unwrap();
            pass();
        }
    });
}
