//! Units that stay in part, whole and not at all: all their bytes, by name.

use riverbed::device::Device;
use riverbed::offload::UnitLease;
use riverbed::plan::{Retention, Rules};

use super::job::{budgets, compare, job, load, model, options, pass, peak, planned, weights};
use super::streaming::{MIB, Sums, ends, host, stream};

#[test]
fn units_that_stay_in_part_are_leased_whole() {
    ends(|| {
        let content = model();
        let (device, _) = host(64);
        let limit = 18 * MIB;
        let offloaded = load(&device, &content, limit, 2 * MIB);
        let plan = offloaded.plan().unwrap();
        let units = &plan.phases[0].plan.units;
        let in_part = |unit: &&riverbed::plan::UnitPlan| {
            unit.resident_bytes > 0 && unit.resident_bytes < unit.bytes
        };
        assert!(units.iter().filter(in_part).count() > 0, "{units:?}");
        let stream = stream(&device);
        for _ in 0..3 {
            assert_eq!(pass(&offloaded, &stream, &content), content.bytes.len());
        }
        for (at, unit) in units.iter().enumerate() {
            let lease = offloaded.acquire(at, &stream).unwrap();
            assert_eq!(
                (lease.len_bytes(), lease.resident_bytes()),
                (unit.bytes, unit.resident_bytes)
            );
        }
        assert!(peak(&offloaded) <= limit);
        let stats = offloaded.stats();
        assert_eq!(
            stats.resident_bytes,
            plan.phases[0].plan.resident_bytes.next_multiple_of(2 * MIB)
        );
        assert_eq!((stats.residents_dropped, stats.rings_made), (0, 1));
    });
}

#[test]
fn a_lease_keeps_what_it_shows_whoever_else_lets_go_of_it() {
    ends(|| {
        let content = model();
        let (device, _) = host(64);
        let offloaded = load(&device, &content, 18 * MIB, 2 * MIB);
        let stream = stream(&device);
        let resident = |lease: &UnitLease| lease.resident_bytes() > 0;
        let leases = (0..offloaded.units().len()).map(|at| offloaded.acquire(at, &stream).unwrap());
        let lease = leases.into_iter().find(resident).unwrap();
        drop(offloaded);
        // Time for whatever was given up to be gone.
        let _ = riverbed::device::settle(std::time::Duration::from_millis(300));
        assert!(compare(&lease, &content.bytes) > 0);
    });
}

#[test]
fn work_on_the_stream_finds_residents_and_what_is_streamed() {
    ends(|| {
        let content = model();
        let (device, _) = host(64);
        let offloaded = load(&device, &content, 18 * MIB, 2 * MIB);
        let (stream, mut sums) = (stream(&device), Sums::new(&device));
        for _ in 0..2 {
            for unit in 0..offloaded.units().len() {
                let lease = offloaded.acquire(unit, &stream).unwrap();
                let names: Vec<String> = lease.tensors().map(|t| t.name.to_owned()).collect();
                for name in names {
                    sums.enqueue_by(&name, content.sums[&name], |out, slot| {
                        lease.checksum(&name, out, slot).unwrap();
                    });
                }
            }
            offloaded.finish_pass(&stream).unwrap().into_result().unwrap();
            assert_eq!(sums.verify(), content.sums.len());
        }
    });
}

#[test]
fn everything_and_nothing_can_stay() {
    ends(|| {
        let content = model();
        let (device, _) = host(64);
        let stream = stream(&device);
        let all = load(&device, &content, 40 * MIB, 2 * MIB);
        assert_eq!(all.stats().ring_bytes, 0);
        assert_eq!(pass(&all, &stream, &content), content.bytes.len());
        drop(all);

        let rules = Rules { retention: Retention::None, ..Rules::auto() };
        let plan = planned(&job(&content, 2), budgets(10 * MIB, 0), &rules);
        let none = plan.load(&device, &[weights("model", &content)], options()).unwrap();
        assert_eq!(none.stats().resident_bytes, 0);
        for _ in 0..2 {
            assert_eq!(pass(&none, &stream, &content), content.bytes.len());
        }
        assert!(peak(&none) <= 10 * MIB);
    });
}

#[test]
fn without_virtual_memory_residents_lie_in_blocks() {
    ends(|| {
        let content = model();
        let device = Device::open("sim:64MiB,vmm=off").unwrap();
        assert!(!device.info().virtual_memory);
        let offloaded = load(&device, &content, 20 * MIB, 2 * MIB);
        let stream = stream(&device);
        for _ in 0..3 {
            for unit in 0..offloaded.units().len() {
                let lease = offloaded.acquire(unit, &stream).unwrap();
                assert!(lease.tensors().count() > 0);
            }
            offloaded.finish_pass(&stream).unwrap().into_result().unwrap();
            offloaded.check().unwrap();
        }
        assert!(offloaded.stats().resident_bytes > 0);
        assert!(peak(&offloaded) <= 20 * MIB);
    });
}
