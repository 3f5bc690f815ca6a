//! Does a pass take as long as planned? Real models' layers, scaled, on the host device over a
//! link of a set rate, with compute that takes its time and no processor: planned seconds beside
//! measured ones, round after round.
//!
//! `cargo bench --bench planned_pass`

#[path = "../tests/support/planned.rs"]
mod planned;

use planned::{FLUX, Planned, QWEN_IMAGE, SD35_LARGE};
use riverbed::device::Device;

/// Models by this, and the link too: durations are the real ones.
const SCALE: u64 = 64;
const ROUNDS: usize = 3;

fn main() {
    // As `cargo test --benches` runs it: once, and little of it.
    let is_test = !std::env::args().any(|argument| argument == "--bench");
    let cases = [
        ("FLUX, 25 GB/s, 90 TFLOP/s", FLUX, 14.5, 25, 4),
        ("FLUX, 25 GB/s, 90 TFLOP/s", FLUX, 14.5, 25, 8),
        ("FLUX, 52 GB/s, 450 TFLOP/s", FLUX, 2.9, 52, 8),
        ("Qwen-Image, 25 GB/s, 90 TFLOP/s", QWEN_IMAGE, 13.533, 25, 8),
        ("Qwen-Image, 25 GB/s, 90 TFLOP/s", QWEN_IMAGE, 13.533, 25, 22),
        ("SD3.5-large, 25 GB/s, 90 TFLOP/s", SD35_LARGE, 9.111, 25, 2),
    ];
    println!("{:<36} {:>6} {:>10} {:>30}", "by 64", "limit", "planned", "measured / planned");
    for (name, stacks, compute_ms, link_gb, vram_gb) in cases {
        let link = link_gb * 1_000_000_000 / SCALE;
        let device = Device::open(&format!("host:h2d={link}B/s")).expect("the host device");
        let vram = vram_gb * 1_000_000_000 / SCALE;
        let run = Planned::new(device, (stacks, SCALE), compute_ms, link, vram);
        let planned = run.plan.phases[0].seconds_per_pass;
        let (uncounted, counted) = if is_test { (0, 1) } else { (4, 4) };
        let round = |at: usize| {
            let uncounted = if at == 0 { uncounted } else { 0 };
            format!("{:>9.3}", run.seconds_per_pass(uncounted, counted) / planned)
        };
        let rounds: String = (0..if is_test { 1 } else { ROUNDS }).map(round).collect();
        println!("{name:<36} {vram_gb:>3} GB {planned:>8.4} s {rounds:>30}");
        run.end();
        if is_test {
            break;
        }
    }
}
