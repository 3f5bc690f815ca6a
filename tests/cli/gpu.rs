//! The binary on GPUs: fake drivers where the loader looks, and what they say of how they were
//! called.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::elf::Elf;
use super::ends::{signal, wait_until_streaming};
use super::fake::{FakeDriver, Report, Vendor};
use super::models::check_stream;
use super::process::{Place, Run, path};
use super::streaming::{Content, assert_says, ends};

/// A place where the loader finds fake drivers.
pub(crate) struct Machine {
    place: Place,
    fakes: Vec<FakeDriver>,
    settings: String,
}

impl Machine {
    /// With drivers of these vendors, all with these settings.
    pub(crate) fn with(vendors: &[Vendor], settings: &str) -> Self {
        Self::lacking(vendors, settings, &[])
    }

    /// The same without some functions.
    pub(crate) fn lacking(vendors: &[Vendor], settings: &str, without: &[&str]) -> Self {
        let fakes = vendors.iter().map(|&vendor| FakeDriver::new(vendor, "", without)).collect();
        Self { place: Place::new(), fakes, settings: settings.into() }
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let file = self.place.cwd().join(name);
        std::fs::write(&file, text).unwrap();
        file
    }

    /// The binary, for which the loader finds the drivers.
    fn command(&self, arguments: &[&str]) -> Command {
        let dirs: Vec<_> = self.fakes.iter().map(|fake| path(fake.dir())).collect();
        let settings = [&format!("report={}", path(&self.report_file())), &self.settings[..]];
        let mut command = self.place.command(arguments);
        command.env("LD_LIBRARY_PATH", dirs.join(":"));
        command.env("RIVERBED_FAKE", settings.join(",").trim_end_matches(','));
        command
    }

    fn report_file(&self) -> PathBuf {
        self.place.cwd().join("report.json")
    }

    /// What the driver wrote when the process ended, if it was asked anything.
    fn report(&self) -> Option<Report> {
        let text = std::fs::read_to_string(self.report_file()).ok();
        text.map(|text| serde_json::from_str(&text).unwrap())
    }

    /// Runs the binary, which must end.
    pub(crate) fn run(&self, arguments: &[&str]) -> (Run, Option<Report>) {
        let _ = std::fs::remove_file(self.report_file());
        let mut command = self.command(arguments);
        let run: Run = ends(move || command.output().unwrap()).into();
        assert!(!run.err.contains("panicked"), "{}", run.err);
        (run, self.report())
    }

    /// Runs what must succeed, do nothing wrong, and give everything back; gives its output.
    #[track_caller]
    pub(crate) fn succeed(&self, arguments: &[&str]) -> String {
        let (run, report) = self.run(arguments);
        assert_eq!(run.code, Some(0), "{arguments:?}: {}", run.err);
        if let Some(report) = report {
            assert_clean(&report, arguments);
        }
        run.out
    }

    /// Runs what must fail with `code` and these words.
    #[track_caller]
    fn fail(&self, arguments: &[&str], code: i32, words: &[&str]) -> Option<Report> {
        let (run, report) = self.run(arguments);
        assert_eq!(run.code, Some(code), "{arguments:?}: {}{}", run.out, run.err);
        assert_says(&run.err, words);
        report
    }
}

#[track_caller]
fn assert_clean(report: &Report, arguments: &[&str]) {
    assert!(report.misuses.is_empty(), "{arguments:?}: {:#?}", report.misuses);
    assert!(report.leaks.is_empty(), "{arguments:?} never gives back: {:?}", report.leaks);
}

const BOTH: [(Vendor, &str); 2] = [(Vendor::Cuda, "cuda:0"), (Vendor::Hip, "hip:0")];

#[test]
fn the_binary_is_linked_with_no_vendors_library() {
    let image = std::fs::read(env!("CARGO_BIN_EXE_riverbed")).unwrap();
    let needed = Elf::new(&image).needed();
    assert!(needed.iter().any(|name| name.starts_with("libc.")), "{needed:?}");
    for name in needed {
        assert!(!name.contains("cuda") && !name.contains("hip"), "{name}");
    }
}

#[test]
fn gpus_are_listed_without_taking_hold_of_them() {
    for (vendor, name) in BOTH {
        let machine = Machine::with(&[vendor], "devices=2");
        let (run, report) = machine.run(&["devices"]);
        assert_eq!(run.code, Some(0), "{}", run.err);
        let second = name.replace('0', "1");
        assert_says(&run.out, &["\nhost ", name, &second, "256.00 MiB"]);
        let report = report.unwrap();
        assert_clean(&report, &["devices"]);
        let took = ["cuDevicePrimaryCtxRetain", "hipSetDevice", "cuMemGetInfo_v2", "hipMemGetInfo"];
        for call in took {
            assert!(!report.calls.contains_key(call), "{call}");
        }
    }
    let machine = Machine::with(&[Vendor::Cuda, Vendor::Hip], "");
    let out = machine.succeed(&["devices"]);
    let at = |name: &str| out.find(name).unwrap_or_else(|| panic!("{name} in {out}"));
    assert!(at("cuda:0") < at("hip:0") && at("hip:0") < at("sim:"), "real ones first: {out}");
}

#[test]
fn drivers_that_cannot_be_used_are_listed_with_the_reason() {
    let both = [Vendor::Cuda, Vendor::Hip];
    for (vendors, settings, words) in [
        (&both[..1], "init=100", "there is no device"),
        (&both[..1], "init=4242", "4242"),
        (&both, "count=101", "there is no device"),
        (&both, "count=4242", "4242"),
        (&both, "devices=0", "there is no device"),
    ] {
        let machine = Machine::with(vendors, settings);
        let out = machine.succeed(&["devices"]);
        for kind in &["cuda", "hip"][..vendors.len()] {
            let line = out.lines().find(|line| line.starts_with(kind)).unwrap();
            assert_says(line, &[words]);
        }
        assert_says(&machine.succeed(&["doctor"]), &[words, "no GPU can be used"]);
    }
    let machine = Machine::lacking(&[Vendor::Cuda], "", &["cuCtxPopCurrent_v2"]);
    assert_says(&machine.succeed(&["devices"]), &["cuCtxPopCurrent_v2", "too old"]);
    machine.fail(&["doctor", "--device", "cuda:0"], 1, &["cuda:0", "too old"]);
}

#[test]
fn a_trace_replays_under_every_policy_and_all_is_given_back() {
    let pair = "allocate,1,3145728,0\nallocate,2,512,1\nfree,2,512,1\nfree,1,3145728,0\n";
    let trace = format!("Action,Pointer,Size,Stream\n{}", pair.repeat(40));
    for (vendor, name) in BOTH {
        let machine = Machine::with(&[vendor], "");
        let file = machine.file("pairs.csv", &trace);
        for policy in ["caching", "expandable", "planned", "mempool"] {
            let device = match (vendor, policy) {
                (Vendor::Cuda, _) => name.to_owned(),
                (Vendor::Hip, "mempool") => format!("{name},pools=on"),
                (Vendor::Hip, _) => format!("{name},vmm=on"),
            };
            let arguments = ["replay", path(&file), "--policy", policy, "--device", &device];
            let out = machine.succeed(&[&arguments[..], &["--repeat", "1"]].concat());
            assert_says(&out, &["pairs", policy]);
            assert!(!out.contains("FAILED"), "{out}");
        }
    }
    let machine = Machine::with(&[Vendor::Hip], "");
    let file = machine.file("pairs.csv", &trace);
    let arguments = ["replay", path(&file), "--policy", "mempool", "--device", "hip:0"];
    machine.fail(&arguments, 1, &["hip:0", "mempool", "policy:caching"]);
}

/// Eight layers, of which the limit holds about a third.
fn model() -> Content {
    Content::new(&[&[700_000, 80_000][..]; 8], &[1000])
}

const LIMIT: &str = "6MiB";

#[test]
fn a_model_streams_and_every_byte_is_what_the_file_says() {
    let content = model();
    for (vendor, name) in BOTH {
        for settings in ["", "wait_value=off", "pools=off,vmm=off", "late_us=500"] {
            let machine = Machine::with(&[vendor], settings);
            let stream = ["stream", path(&content.path), "--vram", LIMIT, "--passes", "3"];
            let out = machine.succeed(&[&stream[..], &["--json", "--device", name]].concat());
            check_stream(&serde_json::from_str(&out).unwrap(), 6 << 20, 3);
        }
    }
}

#[test]
fn the_selftest_passes_and_does_nothing_wrong_but_what_it_tests() {
    for (vendor, name) in BOTH {
        let machine = Machine::with(&[vendor], "");
        let (run, report) = machine.run(&["selftest", "--quick", "--device", name]);
        assert_eq!(run.code, Some(0), "{}\n{}", run.out, run.err);
        assert_says(&run.out, &[" 0 failed\n"]);
        let report = report.unwrap();
        assert!(report.leaks.is_empty(), "{:?}", report.leaks);
        for misuse in report.misuses {
            // That it is refused is what a check is about.
            assert!(misuse.call.ends_with("EventElapsedTime"), "{misuse:?}");
        }
    }
}

#[test]
fn devices_that_are_not_there_are_told_from_names_that_are_none() {
    let content = model();
    let machine = Machine::with(&[Vendor::Cuda], "");
    let stream = ["stream", path(&content.path), "--vram", LIMIT, "--device"];
    let on = |device| [&stream[..], &[device]].concat();
    machine.fail(&on("cuda:7"), 1, &["cuda:7", "cuda:0"]);
    machine.fail(&on("cuda:x"), 2, &["cuda:x", "counted from 0"]);
    machine.fail(&on("cuda:0,vram=8GiB"), 2, &["vmm=on|off", "library=PATH"]);
    // With AMD's runtime installed it is the device that is not there, else the runtime.
    machine.fail(&on("hip:0"), 1, &["hip:0", "libamdhip64.so", "'host' needs no GPU"]);
    let text = machine.file("no-library.so", "text");
    let library = format!("cuda:0,library={}", path(&text));
    machine.fail(&on(&library), 1, &["no CUDA driver library found", path(&text)]);
}

#[test]
fn a_device_that_is_full_is_made_do_with_or_says_so() {
    let content = model();
    for (vendor, name) in BOTH {
        let arguments = ["stream", path(&content.path), "--vram", LIMIT, "--device", name];
        // Four of the six MiB: residents give way.
        let machine = Machine::with(&[vendor], "vram=16MiB,system=12MiB");
        let out = machine.succeed(&[&arguments[..], &["--json"]].concat());
        let report: serde_json::Value = serde_json::from_str(&out).unwrap();
        check_stream(&report, 6 << 20, 1);
        assert!(report["ladder"]["residents_dropped"].as_u64().unwrap() > 0, "{report}");
        let machine = Machine::with(&[vendor], "vram=16MiB,system=14MiB");
        let report = machine.fail(&arguments, 1, &["error: ", "memory", name]);
        assert_clean(&report.unwrap(), &arguments);
    }
}

#[test]
fn a_device_lost_in_the_middle_ends_the_run_with_the_call_and_the_status() {
    let content = model();
    for (vendor, name, copy, batch) in [
        (Vendor::Cuda, "cuda:0", "cuMemcpyHtoDAsync_v2", "cuMemcpyBatchAsync"),
        (Vendor::Hip, "hip:0", "hipMemcpyHtoDAsync", "hipMemcpyBatchAsync"),
    ] {
        // Without batches, so that there are copies enough.
        let settings = format!("lost={copy}@20/700");
        let without: &[&str] = if vendor == Vendor::Cuda { &[batch] } else { &[] };
        let machine = Machine::lacking(&[vendor], &settings, without);
        let stream = ["stream", path(&content.path), "--vram", LIMIT, "--passes", "9"];
        let arguments = [&stream[..], &["--device", name]].concat();
        let report = machine.fail(&arguments, 1, &["error: ", name, "700"]).unwrap();
        assert!(report.calls[copy] >= 20, "{:?}", report.calls);
        assert!(report.misuses.is_empty(), "{:#?}", report.misuses);
    }
}

#[test]
fn ctrl_c_ends_a_stream_with_everything_given_back() {
    let content = model();
    for (vendor, name) in BOTH {
        let machine = Machine::with(&[vendor], "");
        let stream = ["stream", path(&content.path), "--vram", LIMIT, "--passes", "10000"];
        let mut command =
            machine.command(&[&stream[..], &["--layer-ms", "5", "--device", name]].concat());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_until_streaming(child.id());
        signal(&child, "INT");
        let run: Run = ends(move || child.wait_with_output().unwrap()).into();
        assert_eq!(run.code, Some(130), "{}", run.err);
        assert_clean(&machine.report().unwrap(), &["Ctrl-C"]);
    }
}
