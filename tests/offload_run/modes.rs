//! Every mode there is, on a job of three components and on real models: all bytes right within
//! the limit, or refused for a reason.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;

use riverbed::device::Device;
use riverbed::modes::{Card, Mode};
use riverbed::offload::{ComponentWeights, DescribeOptions, DescribedJob, OffloadOptions, Tables};
use riverbed::plan::{Budgets, Job, Plan, Refusal, plan};

use super::fetched::fetched;
use super::job::{budgets, compare, peak, rates};
use super::phases::Parts;
use super::streaming::{MIB, ends, stream};

/// A job, its weights, and by component what their bytes are.
struct Case {
    job: Job,
    weights: Vec<ComponentWeights>,
    bytes: Vec<HashMap<String, Vec<u8>>>,
    /// Where generated files are.
    _directories: Vec<tempfile::TempDir>,
}

/// The device; watermarks are fractions of it.
const CARD: u64 = 1 << 30;

/// Modes that do not fit, and a word of the reason each.
type Refused = &'static [(&'static str, &'static str)];

/// Modes that have components on the device whole, and InvokeAI's with its 3 GiB to work in.
const WHOLE_AND_ROOMY: Refused = &[
    ("none", "all weights are to stay"),
    ("model", "to be on the device whole"),
    ("partial", "what is worked in"),
    ("a1111:medvram", "to be on the device whole"),
    ("medvram-sdxl", "all weights are to stay"),
];

impl Case {
    fn generated() -> Self {
        let parts = Parts::new();
        let (job, weights) = (parts.job(), parts.weights());
        let contents = parts.contents.into_iter().map(|one| (one.bytes, one.directory));
        let (bytes, directories) = contents.unzip();
        Self { job, weights, bytes, _directories: directories }
    }

    /// Without the tables whose rows are gathered in host memory.
    fn real(name: &str, passes: u32) -> Self {
        let mut options = DescribeOptions::default();
        options.tables = Tables::Host;
        let described = DescribedJob::open(fetched(name), None, Some(passes), &options).unwrap();
        let weights = ComponentWeights::of_job(&described).unwrap();
        let model = &weights[0].model;
        let files: Vec<_> =
            model.files().iter().map(|file| std::fs::File::open(&file.path).unwrap()).collect();
        let planned = weights[0].units.iter().flat_map(|unit| &unit.tensors);
        let read = |&tensor: &usize| {
            let tensor = &model.tensors()[tensor];
            let mut bytes = vec![0; tensor.len_bytes as usize];
            files[tensor.file].read_exact_at(&mut bytes, tensor.offset_bytes).unwrap();
            (tensor.name.clone(), bytes)
        };
        let bytes = vec![planned.map(read).collect()];
        Self { job: described.job, weights, bytes, _directories: Vec::new() }
    }

    fn plan(&self, mode: &Mode, limit: u64) -> Result<Plan, Box<Refusal>> {
        let preset = mode.clone().for_model(false).preset(&Card::of(CARD));
        let budgets: Budgets = budgets(limit, preset.working_bytes);
        plan(&self.job, &rates(), &budgets, &preset.rules)
    }

    /// All phases by a mode, every byte compared.
    #[track_caller]
    fn run(&self, mode: &str, limit: u64) {
        let plan = self.plan(&Mode::parse(mode).unwrap(), limit);
        let plan = plan.unwrap_or_else(|refusal| panic!("{refusal}"));
        let device = Device::open(&format!("host:vram={CARD}")).unwrap();
        let mut options = OffloadOptions::default();
        // What is used once is worth no home.
        options.prefetch.keep_in_ram = plan.phases.iter().any(|phase| phase.passes > 1);
        let offloaded = plan.load(&device, &self.weights, options).unwrap();
        let stream = stream(&device);
        for (number, phase) in plan.phases.iter().enumerate() {
            offloaded.enter(number).unwrap();
            let bytes = &self.bytes[phase.component];
            for _ in 0..phase.passes {
                let mut compared = 0;
                for unit in 0..offloaded.units().len() {
                    compared += compare(&offloaded.acquire(unit, &stream).unwrap(), bytes);
                }
                assert_eq!(compared, bytes.len(), "{mode}: every tensor once");
                offloaded.finish_pass(&stream).unwrap().into_result().unwrap();
                offloaded.check().unwrap();
            }
        }
        assert!(peak(&offloaded) <= limit, "{mode}: {} of {limit} bytes", peak(&offloaded));
        let stats = offloaded.stats();
        assert_eq!((stats.residents_dropped, stats.refusals), (0, 0), "{mode}: {stats:?}");
    }

    #[track_caller]
    fn run_all(&self, limit: u64, refused: Refused) {
        for row in Mode::all() {
            match refused.iter().find(|(name, _)| *name == row.name) {
                None => self.run(row.name, limit),
                Some((name, reason)) => {
                    let refusal = self.plan(&Mode::parse(name).unwrap(), limit).unwrap_err();
                    assert!(refusal.to_string().contains(reason), "{refusal}");
                    assert!(refusal.needed_bytes > limit, "{refusal}");
                }
            }
        }
        // With as little to work in as there is.
        self.run("invoke:partial=0.002", limit);
    }
}

#[test]
fn every_mode_runs_a_job_of_three_components_or_says_why_not() {
    ends(|| {
        let case = Case::generated();
        case.run_all(48 * MIB, &[("partial", "what is worked in")]);
        case.run_all(18 * MIB, WHOLE_AND_ROOMY);
    });
}

#[test]
fn every_mode_runs_minilm_or_says_why_not() {
    ends(|| Case::real("MiniLM", 1).run_all(24 * MIB, WHOLE_AND_ROOMY));
}

#[test]
fn every_mode_runs_smollm2_or_says_why_not() {
    ends(|| Case::real("SmolLM2", 1).run_all(64 * MIB, WHOLE_AND_ROOMY));
}
