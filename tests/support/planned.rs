//! Real models' layers, scaled down, planned and run by the plan on a device whose link has a set
//! rate. Included by path.
#![allow(unreachable_pub)]

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use riverbed::device::{Device, Priority, Stream};
use riverbed::offload::{ComponentWeights, DescribeOptions, Described, OffloadOptions, Offloaded};
use riverbed::plan::{Budgets, DeviceRates, Job, Plan, Rules, plan};
use riverbed::weights::{Grouping, Model};

/// So many layers of these bytes.
pub type Stack = (u64, u64);

/// FLUX.1-dev, Qwen-Image and SD3.5-large: their layers in bf16.
pub const FLUX: &[Stack] = &[(19, 679_662_592), (38, 283_183_616)];
pub const QWEN_IMAGE: &[Stack] = &[(60, 679_662_592)];
pub const SD35_LARGE: &[Stack] = &[(37, 425_999_360), (1, 272_170_496)];

/// A model by its plan on a device.
pub struct Planned {
    _directory: tempfile::TempDir,
    pub plan: Plan,
    device: Device,
    offloaded: Offloaded,
    stream: Stream,
}

impl Planned {
    /// Layers of a model by `scale`, each with so many milliseconds of compute, under a limit,
    /// on a device with a link of `link` bytes a second.
    pub fn new(
        device: Device,
        (stacks, scale): (&[Stack], u64),
        compute_ms: f64,
        link: u64,
        vram: u64,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let model = model(directory.path(), stacks, scale);
        let grouping = Grouping::by_pattern(&model, "blocks.{i}.").unwrap();
        let options = DescribeOptions::default();
        let described = Described::new("model", &model, &grouping, &options).unwrap();
        let mut component = described.component;
        for unit in &mut component.units {
            unit.gflop = compute_ms;
        }
        let rates = DeviceRates::of_link(link as f64, 1e12);
        let page_bytes = device.info().granularity_bytes;
        let budgets = Budgets { page_bytes, ..Budgets::of_vram(vram / page_bytes * page_bytes) };
        let plan = plan(&Job::of(component, 100), &rates, &budgets, &Rules::auto()).unwrap();
        let mut options = OffloadOptions::default();
        let pinned_mib = (model.total_bytes() >> 20) * 9 / 8 + 64;
        options.conf = format!("pinned_limit_mb:{pinned_mib}").parse().unwrap();
        let weights = ComponentWeights::new("model", model, described.units);
        let offloaded = plan.load(&device, &[weights], options).unwrap();
        let stream = Stream::new(&device, Priority::Normal).unwrap();
        Self { _directory: directory, plan, device, offloaded, stream }
    }

    /// Runs passes, the first ones uncounted; gives the mean seconds of the others.
    pub fn seconds_per_pass(&self, uncounted: u32, counted: u32) -> f64 {
        (0..uncounted).for_each(|_| self.pass());
        let (started, virtual_ns) = (Instant::now(), self.device.virtual_ns());
        (0..counted).for_each(|_| self.pass());
        let seconds = match (virtual_ns, self.device.virtual_ns()) {
            (Some(before), Some(now)) => (now - before) as f64 / 1e9,
            _ => started.elapsed().as_secs_f64(),
        };
        self.offloaded.check().unwrap();
        seconds / f64::from(counted)
    }

    fn pass(&self) {
        for (at, unit) in self.plan.phases[0].plan.units.iter().enumerate() {
            let lease = self.offloaded.acquire(at, &self.stream).unwrap();
            self.stream.busy((unit.compute_seconds * 1e9) as u64).unwrap();
            drop(lease);
        }
        self.offloaded.finish_pass(&self.stream).unwrap().into_result().unwrap();
    }

    /// Ends what was being copied for a next pass: on a virtual clock nobody else moves it.
    pub fn end(self) {
        drop(self.offloaded);
        self.stream.busy(2_000_000_000).unwrap();
        self.stream.synchronize().unwrap();
    }
}

/// A file of such layers that takes no room, with nine tensors a layer: one of a third of it, and
/// eight of the rest.
fn model(directory: &Path, stacks: &[Stack], scale: u64) -> Arc<Model> {
    let (mut header, mut end, mut layer) = (String::from("{"), 0, 0);
    for &(count, bytes) in stacks {
        let bytes = bytes / scale;
        for _ in 0..count {
            for tensor in 0..9 {
                let len = if tensor == 0 { bytes / 3 } else { bytes / 12 } / 256 * 256;
                let (from, comma) = (end, if end > 0 { "," } else { "" });
                end += len;
                write!(
                    header,
                    "{comma}\"blocks.{layer}.w{tensor}.weight\":{{\"dtype\":\"U8\",\
                     \"shape\":[{len},1],\"data_offsets\":[{from},{end}]}}"
                )
                .unwrap();
            }
            layer += 1;
        }
    }
    header.push('}');
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    let (path, len) = (directory.join("model.safetensors"), bytes.len() as u64 + end);
    std::fs::write(&path, bytes).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(len).unwrap();
    Arc::new(Model::open(&path).unwrap())
}
