//! Measured costs correct the plan.

use riverbed::device::Device;
use riverbed::offload::Offloaded;
use riverbed::plan::{DeviceRates, Rules, plan};

use super::job::{budgets, job, model, options, weights};
use super::streaming::{Content, MIB, ends, stream};

/// Passes whose units compute for so long.
fn run(offloaded: &Offloaded, device: &Device, passes: usize, busy_ns: u64) {
    let stream = stream(device);
    for _ in 0..passes {
        for unit in 0..offloaded.units().len() {
            let lease = offloaded.acquire(unit, &stream).unwrap();
            stream.busy(busy_ns).unwrap();
            drop(lease);
        }
        offloaded.finish_pass(&stream).unwrap().into_result().unwrap();
        offloaded.check().unwrap();
    }
}

fn load(device: &Device, content: &Content, rates: &DeviceRates) -> Offloaded {
    let job = job(content, 100);
    let plan = plan(&job, rates, &budgets(18 * MIB, 0), &Rules::auto()).unwrap();
    let mut options = options();
    options.job = Some(job);
    plan.load(device, &[weights("model", content)], options).unwrap()
}

#[test]
fn a_plan_that_is_off_is_made_anew_by_what_was_measured() {
    ends(|| {
        let content = model();
        let device = Device::open("sim:64MiB,h2d=2GB/s").unwrap();
        // Ten times the link there is, and no compute to speak of.
        let offloaded = load(&device, &content, &DeviceRates::of_link(20e9, 1e18));
        let before = offloaded.plan().unwrap();
        run(&offloaded, &device, 6, 500_000);
        let (link, compute) = offloaded.measured();
        let link = link.unwrap();
        assert!((1.5e9..2.1e9).contains(&link), "{link}");
        let passes: f64 = compute.iter().sum();
        let units = compute.len() as f64;
        assert!((passes - units * 0.5e-3).abs() < 0.2 * units * 0.5e-3, "{compute:?}");
        assert_eq!(offloaded.stats().replans, 1);
        let after = offloaded.plan().unwrap();
        assert!(after.rates.name.ends_with("as measured"), "{}", after.rates.name);
        assert!(after.phases[0].seconds_per_pass > 2.0 * before.phases[0].seconds_per_pass);
        // What it then counts with is right, so that it stays.
        run(&offloaded, &device, 8, 500_000);
        assert_eq!(offloaded.stats().replans, 1);
    });
}

#[test]
fn a_plan_that_is_right_stays() {
    ends(|| {
        let content = model();
        let device = Device::open("sim:64MiB,h2d=2GB/s").unwrap();
        let offloaded = load(&device, &content, &DeviceRates::of_link(2e9, 1e12));
        let seconds: Vec<f64> = offloaded.plan().unwrap().phases[0]
            .plan
            .units
            .iter()
            .map(|u| u.compute_seconds)
            .collect();
        let stream = stream(&device);
        for _ in 0..6 {
            for (unit, seconds) in seconds.iter().enumerate() {
                let lease = offloaded.acquire(unit, &stream).unwrap();
                stream.busy((seconds * 1e9) as u64).unwrap();
                drop(lease);
            }
            offloaded.finish_pass(&stream).unwrap().into_result().unwrap();
        }
        let (link, compute) = offloaded.measured();
        let planned: f64 = seconds.iter().sum();
        assert!(compute.iter().sum::<f64>() < 1.25 * planned + 1e-4, "{compute:?} {seconds:?}");
        assert_eq!(offloaded.stats().replans, 0, "{link:?}");
    });
}
