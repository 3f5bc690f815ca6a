//! A plan's seconds against the clock of a simulated device.

use std::fmt::Write as _;
use std::sync::Arc;

use riverbed::device::Device;
use riverbed::offload::{ComponentWeights, DescribeOptions, Described, OffloadOptions};
use riverbed::plan::{Budgets, DeviceRates, Job, Plan, Rules, plan};
use riverbed::weights::{Grouping, Model};

use super::job::PAGE;
use super::streaming::{MIB, ends, stream};

/// Real models by this, and the link too: durations are the real ones.
const SCALE: u64 = 256;

/// Layers of these bytes (so many of each), nine tensors a layer, in a file that takes no room.
fn model(directory: &std::path::Path, stacks: &[(u64, u64)]) -> Arc<Model> {
    let (mut header, mut end, mut layer) = (String::from("{"), 0, 0);
    for &(count, bytes) in stacks {
        for _ in 0..count {
            for tensor in 0..9 {
                // Tensors of unlike sizes: a third of the layer, and eight parts of the rest.
                let len = if tensor == 0 { bytes / 3 } else { bytes / 12 } / 256 * 256;
                let comma = if end > 0 { "," } else { "" };
                let from = end;
                end += len;
                let name = format!("blocks.{layer}.w{tensor}.weight");
                write!(
                    header,
                    "{comma}\"{name}\":{{\"dtype\":\"U8\",\"shape\":[{len},1],\
                     \"data_offsets\":[{from},{end}]}}"
                )
                .unwrap();
            }
            layer += 1;
        }
    }
    header.push('}');
    let path = directory.join("model.safetensors");
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    let len = bytes.len() as u64 + end;
    std::fs::write(&path, bytes).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(len).unwrap();
    Arc::new(Model::open(&path).unwrap())
}

/// Plans such layers under a limit, each with so many milliseconds of compute, runs the plan, and
/// gives the planned and the measured seconds of a pass.
fn planned_and_measured(
    stacks: &[(u64, u64)],
    compute_ms: f64,
    link: u64,
    vram: u64,
) -> (Plan, f64) {
    let directory = tempfile::tempdir().unwrap();
    let model = model(directory.path(), stacks);
    let device = Device::open(&format!("sim:h2d={link}B/s")).unwrap();
    let grouping = Grouping::by_pattern(&model, "blocks.{i}.").unwrap();
    let described =
        Described::new("model", &model, &grouping, &DescribeOptions::default()).unwrap();
    let mut component = described.component;
    for unit in &mut component.units {
        unit.gflop = compute_ms;
    }
    let rates = DeviceRates::of_link(link as f64, 1e12);
    let budgets = Budgets { page_bytes: PAGE, ..Budgets::of_vram(vram) };
    let plan = plan(&Job::of(component, 100), &rates, &budgets, &Rules::auto()).unwrap();
    let weights = ComponentWeights::new("model", model, described.units);
    let mut options = OffloadOptions::default();
    options.conf = "pinned_limit_mb:400".parse().unwrap();
    let offloaded = plan.load(&device, &[weights], options).unwrap();
    let stream = stream(&device);
    let now = || device.virtual_ns().unwrap();
    let pass = || {
        let started = now();
        for (at, unit) in plan.phases[0].plan.units.iter().enumerate() {
            let lease = offloaded.acquire(at, &stream).unwrap();
            stream.busy((unit.compute_seconds * 1e9) as u64).unwrap();
            drop(lease);
        }
        offloaded.finish_pass(&stream).unwrap().into_result().unwrap();
        now() - started
    };
    for _ in 0..4 {
        pass();
    }
    let passes = 3;
    let ns: u64 = (0..passes).map(|_| pass()).sum();
    offloaded.check().unwrap();
    drop(offloaded);
    // What was being copied for a next pass ends too: nobody else moves the clock.
    stream.busy(2_000_000_000).unwrap();
    stream.synchronize().unwrap();
    (plan, ns as f64 / passes as f64 / 1e9)
}

#[test]
fn a_simulated_device_takes_as_long_as_planned() {
    let flux: &[(u64, u64)] = &[(19, 679_662_592 / SCALE), (38, 283_183_616 / SCALE)];
    let qwen: &[(u64, u64)] = &[(60, 679_662_592 / SCALE)];
    let sd35: &[(u64, u64)] = &[(37, 425_999_360 / SCALE), (1, 272_170_496 / SCALE)];
    let (pcie4, pcie5) = (25_000_000_000 / SCALE, 52_000_000_000 / SCALE);
    ends(move || {
        for (name, stacks, compute_ms, link, vram_gb) in [
            ("FLUX", flux, 14.5, pcie4, 4.0),
            ("FLUX", flux, 2.9, pcie5, 8.0),
            ("Qwen-Image", qwen, 13.533, pcie4, 8.0),
            ("SD3.5-large", sd35, 9.111, pcie4, 2.0),
        ] {
            let vram = (vram_gb * 1e9) as u64 / SCALE / MIB * MIB;
            let (plan, measured) = planned_and_measured(stacks, compute_ms, link, vram);
            let planned = plan.phases[0].seconds_per_pass;
            println!("{name} {vram_gb} GB: planned {planned:.5} s, measured {measured:.5} s");
            let off = (measured / planned - 1.0).abs();
            assert!(off < 0.01, "{name}, {vram_gb} GB: {planned} planned, {measured} measured");
        }
    });
}
