//! A job of three components, phase after phase.

use riverbed::device::Device;
use riverbed::offload::{ComponentWeights, Offloaded};
use riverbed::plan::{Granularity, Job, Retention, Rules};

use super::job::{budgets, compare, described, options, peak, planned, weights};
use super::streaming::{Content, MIB, ends, host, stream};

pub(crate) struct Parts {
    pub(crate) contents: [Content; 3],
}

const NAMES: [&str; 3] = ["encoder", "transformer", "decoder"];

impl Parts {
    pub(crate) fn new() -> Self {
        let small: &[usize] = &[2 << 20, 1 << 19];
        let encoder = Content::layers(&[small; 3]);
        let layer: &[usize] = &[1 << 20, 3 << 19, 700_000];
        let transformer = Content::new(&[layer; 5], &[1 << 20]);
        let decoder = Content::layers(&[&[3 << 19], &[2 << 20]]);
        Self { contents: [encoder, transformer, decoder] }
    }

    pub(crate) fn job(&self) -> Job {
        let mut job = Job::new("pipeline");
        for (name, content) in NAMES.iter().zip(&self.contents) {
            job.component(described(name, content).component);
        }
        job.phase("encode", 0, 1, 0).phase("denoise", 1, 3, 2 * MIB).phase("decode", 2, 1, 4 * MIB);
        job
    }

    fn load(&self, device: &Device, vram: u64, rules: &Rules) -> Offloaded {
        let plan = planned(&self.job(), budgets(vram, 0), rules);
        plan.load(device, &self.weights(), options()).unwrap()
    }

    pub(crate) fn weights(&self) -> Vec<ComponentWeights> {
        let named = NAMES.iter().zip(&self.contents);
        named.map(|(name, content)| weights(name, content)).collect()
    }

    /// The whole job, every byte compared.
    fn run(&self, offloaded: &Offloaded, device: &Device) {
        let stream = stream(device);
        for (phase, planned) in offloaded.plan().unwrap().phases.iter().enumerate() {
            offloaded.enter(phase).unwrap();
            let bytes = &self.contents[planned.component].bytes;
            for _ in 0..planned.passes {
                let mut compared = 0;
                for unit in 0..offloaded.units().len() {
                    let lease = offloaded.acquire(unit, &stream).unwrap();
                    assert!(lease.tensor("no such tensor").is_err());
                    compared += compare(&lease, bytes);
                }
                assert_eq!(compared, bytes.len());
                offloaded.finish_pass(&stream).unwrap().into_result().unwrap();
                offloaded.check().unwrap();
            }
        }
    }
}

#[test]
fn every_mode_of_staying_gives_the_right_bytes_within_the_limit() {
    ends(|| {
        let parts = Parts::new();
        let auto = Rules::auto();
        let modes = [
            (16 * MIB, auto.clone()),
            (36 * MIB, auto.clone()),
            (
                22 * MIB,
                Rules {
                    granularity: Granularity::Component,
                    retention: Retention::OneComponent,
                    ..auto.clone()
                },
            ),
            (12 * MIB, Rules { retention: Retention::None, prefetch: false, ..auto.clone() }),
            (
                16 * MIB,
                Rules { granularity: Granularity::Group(2), single_buffer: true, ..auto.clone() },
            ),
            (14 * MIB, Rules { granularity: Granularity::Leaf, ..auto.clone() }),
            (36 * MIB, Rules { retention: Retention::All, ..auto.clone() }),
            (
                24 * MIB,
                Rules {
                    retention: Retention::Watermarks { low_bytes: 10 * MIB, high_bytes: 20 * MIB },
                    ..auto
                },
            ),
        ];
        for (limit, rules) in modes {
            let (device, _) = host(64);
            let offloaded = parts.load(&device, limit, &rules);
            parts.run(&offloaded, &device);
            assert!(peak(&offloaded) <= limit, "{rules:?}");
        }
    });
}

#[test]
fn components_are_held_while_there_is_room_and_leave_where_not() {
    ends(|| {
        let parts = Parts::new();
        let (device, _) = host(64);
        let roomy = parts.load(&device, 40 * MIB, &Rules::auto());
        parts.run(&roomy, &device);
        let moved = |offloaded: &Offloaded| {
            parts.run(offloaded, &device);
            offloaded.stats().rings_made
        };
        let rings = moved(&roomy);
        assert_eq!(moved(&roomy), rings, "everything stays: nothing is made anew");
        assert!(roomy.stats().resident_bytes >= 27 * MIB, "{:?}", roomy.stats());
        drop(roomy);

        let rules = Rules {
            granularity: Granularity::Component,
            retention: Retention::OneComponent,
            ..Rules::auto()
        };
        let one = parts.load(&device, 24 * MIB, &rules);
        parts.run(&one, &device);
        assert_eq!(one.stats().resident_bytes, 4 * MIB, "the decoder alone");
        one.leave().unwrap();
        assert_eq!((one.stats().resident_bytes, one.stats().ring_bytes), (0, 0));
        assert!(one.acquire(0, &stream(&device)).is_err(), "no phase is entered");
        parts.run(&one, &device);
    });
}

#[test]
fn the_next_component_loads_while_one_runs() {
    ends(|| {
        let parts = Parts::new();
        let (device, _) = host(64);
        let offloaded = parts.load(&device, 26 * MIB, &Rules::auto());
        parts.run(&offloaded, &device);
        let stats = offloaded.stats();
        assert!(stats.loaded_ahead > 0, "{stats:?}");
    });
}

#[test]
fn phases_are_not_changed_under_a_lease() {
    ends(|| {
        let parts = Parts::new();
        let (device, _) = host(64);
        let offloaded = parts.load(&device, 24 * MIB, &Rules::auto());
        let lease = offloaded.acquire(1, &stream(&device)).unwrap();
        let error = offloaded.enter(1).unwrap_err().to_string();
        assert!(error.contains("layers.1") && error.contains("leases dropped"), "{error}");
        assert!(offloaded.leave().is_err());
        drop(lease);
        assert!(offloaded.enter(3).is_err());
        offloaded.enter(2).unwrap();
        assert_eq!(offloaded.phase(), 2);
    });
}

#[test]
fn a_simulated_device_runs_the_job_within_the_limit() {
    ends(|| {
        let parts = Parts::new();
        for spec in ["sim:64MiB,h2d=4GB/s", "sim:64MiB,vmm=off"] {
            let device = Device::open(spec).unwrap();
            let limit = 20 * MIB;
            let offloaded = parts.load(&device, limit, &Rules::auto());
            let stream = stream(&device);
            for _ in 0..2 {
                for (phase, planned) in offloaded.plan().unwrap().phases.iter().enumerate() {
                    offloaded.enter(phase).unwrap();
                    for _ in 0..planned.passes {
                        for unit in 0..offloaded.units().len() {
                            let lease = offloaded.acquire(unit, &stream).unwrap();
                            stream.busy(100_000).unwrap();
                            assert_eq!(lease.len_bytes(), planned.plan.units[unit].bytes);
                        }
                        offloaded.finish_pass(&stream).unwrap().into_result().unwrap();
                        offloaded.check().unwrap();
                    }
                }
            }
            assert!(peak(&offloaded) <= limit, "{spec}");
        }
    });
}
