//! What the planner counts with: a simulated card's profile, a device's measured link, or rates
//! that were given.

use std::time::Duration;

use riverbed::Error;
use riverbed::device::sim::SimSpec;
use riverbed::device::{Call, Device};
use riverbed::plan::DeviceRates;
use riverbed::transfer::calibrate;

use super::args::Args;
use crate::Failure;
use crate::planning::Target;

/// How long the link is measured.
const LINK_BUDGET: Duration = Duration::from_millis(30);

/// Sustained compute of dense bf16 transformers by card, in 10^12 operations a second. Planning
/// inputs from public figures of diffusion and prefill speed; not measured here.
const SUSTAINED_TFLOPS: &[(&str, f64)] =
    &[("rtx3060", 22.0), ("rtx3090", 45.0), ("rtx4090", 90.0), ("h100", 450.0)];

pub(super) fn target(args: &Args) -> Result<Target, Failure> {
    let mut target = match &args.device {
        Some(name) => of_device(name, args)?,
        None => {
            let link = args.link.ok_or_else(|| no_rate("link", "the device's link"))?;
            let tflops = args.tflops.ok_or_else(|| no_rate("tflops", "its compute"))?;
            let rates = DeviceRates::of_link(link as f64, tflops * 1e12);
            Target { rates, device: None, memory: None, disk_is_known: false }
        }
    };
    if let Some(rate) = args.disk {
        target.rates.disk_bytes_per_second = rate as f64;
        target.disk_is_known = true;
    }
    Ok(target)
}

fn of_device(name: &str, args: &Args) -> Result<Target, Failure> {
    let device = Device::open(name)?;
    let tflops = args.tflops.or_else(|| sustained_tflops(name)).ok_or_else(|| {
        no_rate("tflops", &format!("the sustained compute of '{name}', which nothing here knows"))
    })?;
    let (mut link, copy_seconds, launch_seconds) = if device.info().simulated {
        // A unit's copies start anew where the ring made them wait for room.
        let profile = name.parse::<SimSpec>()?.profile;
        let launch_ns = profile.cost(Call::Launch).map_or(0, |cost| cost.ns(0));
        let (rate, start) = (profile.h2d_gb_per_s.value * 1e9, profile.start_us.value * 1e-6);
        (rate, start, launch_ns as f64 * 1e-9)
    } else if let Some(rate) = args.link {
        (rate as f64, 0.0, 0.0)
    } else {
        let link = calibrate(&device, LINK_BUDGET)?;
        (link.h2d_bytes_per_second as f64, link.h2d_latency_ns as f64 * 1e-9, 0.0)
    };
    if let Some(rate) = args.link {
        link = rate as f64;
    }
    let mut rates = DeviceRates::of_link(link, tflops * 1e12);
    rates.name = format!("{name} ({})", rates.name);
    (rates.copy_seconds, rates.launch_seconds) = (copy_seconds, launch_seconds);
    let memory = Some(device.memory()?);
    Ok(Target { rates, device: Some(device.info().clone()), memory, disk_is_known: false })
}

/// Of a simulated card by name, settings aside.
fn sustained_tflops(device: &str) -> Option<f64> {
    let card = device.strip_prefix("sim:")?.split([',', '-']).next()?;
    SUSTAINED_TFLOPS.iter().find(|(known, _)| *known == card).map(|&(_, tflops)| tflops)
}

fn no_rate(option: &str, what: &str) -> Failure {
    let expected = format!("it is needed: {what}; like --link 25GB/s --tflops 90");
    Error::invalid(format!("--{option}"), "", expected).into()
}
