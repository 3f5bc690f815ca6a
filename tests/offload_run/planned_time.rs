//! A plan's seconds against the clock of a simulated device.

use riverbed::device::Device;

use super::planned::{FLUX, Planned, QWEN_IMAGE, SD35_LARGE};
use super::streaming::ends;

/// Models by this, and the link too: durations are the real ones.
const SCALE: u64 = 256;

#[test]
fn a_simulated_device_takes_as_long_as_planned() {
    let (pcie4, pcie5) = (25_000_000_000 / SCALE, 52_000_000_000 / SCALE);
    ends(move || {
        for (name, stacks, compute_ms, link, vram_gb) in [
            ("FLUX", FLUX, 14.5, pcie4, 4),
            ("FLUX", FLUX, 2.9, pcie5, 8),
            ("Qwen-Image", QWEN_IMAGE, 13.533, pcie4, 8),
            ("SD3.5-large", SD35_LARGE, 9.111, pcie4, 2),
        ] {
            let device = Device::open(&format!("sim:h2d={link}B/s")).unwrap();
            let vram = vram_gb * 1_000_000_000 / SCALE;
            let run = Planned::new(device, (stacks, SCALE), compute_ms, link, vram);
            let planned = run.plan.phases[0].seconds_per_pass;
            let measured = run.seconds_per_pass(4, 3);
            println!("{name} {vram_gb} GB: planned {planned:.5} s, measured {measured:.5} s");
            let off = (measured / planned - 1.0).abs();
            assert!(off < 0.01, "{name}, {vram_gb} GB: {planned} planned, {measured} measured");
            run.end();
        }
    });
}
