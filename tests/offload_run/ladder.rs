//! Down the ladder when memory is short, and up again when there is room.

use riverbed::Error;
use riverbed::device::Call;
use riverbed::plan::Rules;

use super::job::{PAGE, budgets, compare, job, load, model, options, pass, peak, planned, weights};
use super::streaming::{MIB, assert_says, ends, host, stream};

#[test]
fn working_memory_makes_residents_leave_by_value_and_they_come_back() {
    ends(|| {
        let content = model();
        let (device, _) = host(64);
        let limit = 24 * MIB;
        let offloaded = load(&device, &content, limit, 2 * MIB);
        let stream = stream(&device);
        pass(&offloaded, &stream, &content);
        let before = offloaded.stats();

        let working = offloaded.reserve(12 * MIB).unwrap();
        let short = offloaded.stats();
        assert_eq!((working.bytes(), short.promised_bytes), (12 * MIB, 12 * MIB));
        assert!(short.resident_bytes + short.ring_bytes <= limit - 12 * MIB, "{short:?}");
        assert!(short.residents_dropped > 0 && short.dropped_bytes > 0, "{short:?}");
        // Just that much can be allocated.
        let activations = offloaded.allocator().alloc::<u8>(12 << 20, &stream).unwrap();
        assert_eq!(offloaded.stats().residents_dropped, short.residents_dropped);
        for _ in 0..2 {
            pass(&offloaded, &stream, &content);
        }
        assert_eq!(offloaded.stats().residents_restored, 0, "the promise stands");
        drop((activations, working));
        for _ in 0..6 {
            pass(&offloaded, &stream, &content);
        }
        let after = offloaded.stats();
        assert_eq!(
            (after.resident_bytes, after.ring_bytes),
            (before.resident_bytes, before.ring_bytes)
        );
        assert_eq!(after.residents_restored, after.residents_dropped, "{after:?}");
        assert_eq!(after.promised_bytes, 0);
        assert!(peak(&offloaded) <= limit);
    });
}

#[test]
fn activations_that_do_not_fit_take_the_same_ladder_within_a_pass() {
    ends(|| {
        let content = model();
        let (device, _) = host(64);
        let limit = 24 * MIB;
        let offloaded = load(&device, &content, limit, 0);
        let stream = stream(&device);
        pass(&offloaded, &stream, &content);
        let units = offloaded.units().len();
        for unit in 0..units {
            let lease = offloaded.acquire(unit, &stream).unwrap();
            // With a unit in use the ring stays what it is; residents of others leave.
            let activations = offloaded.allocator().alloc::<u8>(6 << 20, &stream).unwrap();
            compare(&lease, &content.bytes);
            drop(activations);
        }
        offloaded.finish_pass(&stream).unwrap().into_result().unwrap();
        offloaded.check().unwrap();
        let stats = offloaded.stats();
        assert!(stats.residents_dropped > 0, "{stats:?}");
        assert!(peak(&offloaded) <= limit);
        for _ in 0..8 {
            pass(&offloaded, &stream, &content);
        }
        let after = offloaded.stats();
        assert_eq!(after.residents_restored, after.residents_dropped, "{after:?}");
    });
}

#[test]
fn what_cannot_be_met_fails_with_the_steps() {
    ends(|| {
        let content = model();
        let (device, _) = host(64);
        let offloaded = load(&device, &content, 24 * MIB, 0);
        let stream = stream(&device);
        pass(&offloaded, &stream, &content);
        let kept = offloaded.stats();
        let error = offloaded.reserve(22 * MIB).unwrap_err();
        assert!(matches!(error, Error::OutOfMemory(_)), "{error}");
        assert_says(&error.to_string(), &["cache", "weights keep", "cannot be given up"]);
        let error = offloaded.allocator().alloc::<u8>(22 << 20, &stream).unwrap_err();
        assert_says(&error.to_string(), &["the weights' ladder", "cannot be given up"]);
        assert!(matches!(offloaded.reserve(25 * MIB), Err(Error::TooLarge { .. })));
        let after = offloaded.stats();
        assert_eq!(after.resident_bytes, kept.resident_bytes, "nothing was given up for nothing");
        assert_eq!((after.refusals, after.promised_bytes), (2, 0));
        pass(&offloaded, &stream, &content);
    });
}

#[test]
fn the_ring_gets_smaller_before_residents_leave() {
    ends(|| {
        let content = model();
        let (device, _) = host(64);
        // A ring with more room than it needs at the least.
        let mut plan = planned(&job(&content, 4), budgets(24 * MIB, 0), &Rules::auto());
        let phase = &mut plan.phases[0];
        let (ring, resident) = (phase.plan.ring_bytes, phase.plan.resident_bytes);
        assert!(resident.next_multiple_of(PAGE) + ring <= 24 * MIB);
        phase.plan.ring_bytes = 24 * MIB - resident.next_multiple_of(PAGE);
        let offloaded = plan.load(&device, &[weights("model", &content)], options()).unwrap();
        let stream = stream(&device);
        pass(&offloaded, &stream, &content);
        let least = {
            let units = &plan.phases[0].plan.units;
            let streamed = units.iter().map(|unit| unit.bytes - unit.resident_bytes);
            (2 * streamed.max().unwrap()).next_multiple_of(PAGE)
        };
        let spare = plan.phases[0].plan.ring_bytes - least;
        if spare > 0 {
            let working = offloaded.reserve(spare).unwrap();
            let stats = offloaded.stats();
            assert_eq!((stats.ring_shrinks, stats.residents_dropped), (1, 0), "{stats:?}");
            pass(&offloaded, &stream, &content);
            drop(working);
        }
        let working = offloaded.reserve(spare + PAGE).unwrap();
        let stats = offloaded.stats();
        assert!(stats.residents_dropped > 0, "{stats:?}");
        pass(&offloaded, &stream, &content);
        drop(working);
        for _ in 0..8 {
            pass(&offloaded, &stream, &content);
        }
        assert_eq!(offloaded.stats().ring_bytes, plan.phases[0].plan.ring_bytes);
    });
}

#[test]
fn the_last_rung_is_a_ring_of_one_unit() {
    ends(|| {
        let content = model();
        let (device, _) = host(64);
        let limit = 12 * MIB;
        let offloaded = load(&device, &content, limit, 0);
        let stream = stream(&device);
        pass(&offloaded, &stream, &content);
        let working = offloaded.reserve(limit - 4 * MIB).unwrap();
        let stats = offloaded.stats();
        assert_eq!((stats.single_buffers, stats.resident_bytes), (1, 0), "{stats:?}");
        assert_eq!(stats.ring_bytes, 4 * MIB);
        for _ in 0..2 {
            pass(&offloaded, &stream, &content);
        }
        drop(working);
        for _ in 0..8 {
            pass(&offloaded, &stream, &content);
        }
        assert!(offloaded.stats().ring_bytes > 4 * MIB);
        assert!(peak(&offloaded) <= limit);
    });
}

#[test]
fn a_device_that_another_process_fills_is_given_way_to() {
    ends(|| {
        let content = model();
        // The device is smaller than the limit beside what another process takes of it.
        let (device, driver) = host(32);
        let offloaded = load(&device, &content, 24 * MIB, 0);
        let stream = stream(&device);
        pass(&offloaded, &stream, &content);
        let other = riverbed::pool::Allocator::builder(&device).build().unwrap();
        let free = device.memory().unwrap().free_bytes;
        let taken = other.alloc_dedicated::<u8>(free as usize, &stream).unwrap();
        // Within the limit, and the driver has none.
        let activations = offloaded.allocator().alloc_dedicated::<u8>(2 << 20, &stream);
        assert!(
            activations.is_ok()
                || offloaded.stats().resident_bytes + offloaded.stats().ring_bytes == 24 * MIB
        );
        let working = offloaded.reserve(4 * MIB).unwrap();
        assert!(offloaded.stats().residents_dropped > 0);
        pass(&offloaded, &stream, &content);
        drop((working, activations));
        for _ in 0..8 {
            pass(&offloaded, &stream, &content);
        }
        drop(taken);
        assert!(riverbed::device::settle(std::time::Duration::from_secs(10)));
        for _ in 0..3 {
            pass(&offloaded, &stream, &content);
        }
        let stats = offloaded.stats();
        assert_eq!(stats.residents_restored, stats.residents_dropped, "{stats:?}");

        // A page that the driver refuses once comes a pass later.
        let working = offloaded.reserve(8 * MIB).unwrap();
        drop(working);
        for _ in 0..2 {
            pass(&offloaded, &stream, &content);
        }
        driver.faults().fail_nth(Some(Call::CreatePage), 1, 2);
        for _ in 0..8 {
            pass(&offloaded, &stream, &content);
        }
        let after = offloaded.stats();
        assert_eq!(after.resident_bytes, stats.resident_bytes, "{after:?}");
    });
}
