//! `riverbed doctor`.

use serde_json::Value;

use super::fake::Vendor;
use super::gpu::Machine;
use super::process::{Place, Run, fail, json, run};
use super::streaming::assert_says;

fn report(machine: &Machine, arguments: &[&str]) -> Value {
    let out = machine.succeed(&[&["doctor", "--json"], arguments].concat());
    serde_json::from_str(&out).unwrap()
}

fn ability<'a>(device: &'a Value, name: &str) -> &'a Value {
    let abilities = device["abilities"].as_array().unwrap();
    abilities.iter().find(|it| it["name"] == name).unwrap_or_else(|| panic!("{name} in {device}"))
}

/// What was found of this severity, as text.
fn findings(report: &Value, severity: &str) -> String {
    let all = report["findings"].as_array().unwrap().iter();
    let these = all.filter(|finding| finding["severity"] == severity);
    these.map(|finding| format!("{finding}\n")).collect()
}

#[test]
fn without_a_gpu_it_says_so_and_is_no_failure() {
    let machine = Machine::with(&[], "");
    let out = machine.succeed(&["doctor"]);
    if !std::path::Path::new("/dev/nvidiactl").exists()
        && !std::path::Path::new("/dev/kfd").exists()
    {
        assert_says(&out, &["no CUDA driver library found"]);
        // AMD's runtime is installed on machines without its GPUs too.
        let absent = ["absent: no ROCm driver library found", "loads, but there is no device"];
        assert!(absent.iter().any(|words| out.contains(words)), "{out}");
        assert_says(&out, &["no GPU can be used", "library=PATH"]);
        let run: Run = run(&["doctor", "--device", "cuda:0"]);
        assert_eq!(run.code, Some(1), "{}", run.err);
        assert_says(&run.out, &["cannot be used", "problem"]);
        assert_says(&run.err, &["cuda:0 cannot be used"]);
    }
    assert_says(&out, &["RLIMIT_MEMLOCK", "pinned budget", "processors", "findings"]);
}

#[test]
fn the_machine_is_told_in_json() {
    let report = json(&["doctor", "--json"]);
    let machine = &report["machine"];
    assert!(machine["memory"]["available_bytes"].as_u64().unwrap() > 0, "{machine}");
    assert!(machine["pinned_budget"]["bytes"].is_u64(), "{machine}");
    assert!(machine["cpus"].as_u64().unwrap() > 0, "{machine}");
    let budget = json(&["doctor", "--json", "--conf", "pinned_limit_mb:3"]);
    assert_eq!(budget["machine"]["pinned_budget"]["bytes"], 3 << 20);
    assert_says(&findings(&budget, "note"), &["3.00 MiB may be pinned", "pinned_limit_mb"]);
}

#[test]
fn a_named_devices_link_is_measured() {
    let report = json(&["doctor", "--json", "--device", "sim:h100"]);
    let link = &report["devices"][0]["link"];
    let rate = link["h2d_bytes_per_second"].as_f64().unwrap();
    assert!((rate / 55e9 - 1.0).abs() < 0.02, "{link}");
    assert!(link["taken_ns"].as_u64().unwrap() > 0, "{link}");
    let out = run(&["doctor", "--device", "host:vram=64MiB"]).out;
    assert_says(&out, &["link to device", "GB/s", "pageable memory", "rounds"]);
    let full = run(&["doctor", "--device", "host:vram=2MiB"]).out;
    assert_says(&full, &["not measured", "out of memory", "can be used"]);
}

#[test]
fn a_whole_driver_can_everything() {
    let machine = Machine::with(&[Vendor::Cuda], "");
    let report = report(&machine, &["--device", "cuda:0"]);
    let device = &report["devices"][0];
    assert_eq!(device["usable"], true);
    assert_eq!(device["driver"]["version"], "12.8");
    assert_eq!(device["driver"]["pci_bus_id"], "0000:01:00.0");
    assert_eq!(device["memory"]["total_bytes"], 256 << 20);
    assert_eq!(device["memory"]["free_bytes"], 250 << 20);
    for name in
        ["virtual_memory", "memory_pools", "pool_caps", "gates_without_host", "batch_copies"]
    {
        assert_eq!(ability(device, name)["on"], true, "{name}");
    }
    assert_eq!(findings(&report, "problem"), "");
    assert_says(&findings(&report, "ok"), &["cuda:0"]);
}

#[test]
fn what_is_off_has_its_reason_and_its_cost() {
    let cases: [(&str, &[&str], &str, &str); 6] = [
        ("vmm=off", &[], "virtual_memory", "device does not support it"),
        ("pools=off", &[], "memory_pools", "device does not support them"),
        ("version=12000", &[], "pool_caps", "before version 12.2"),
        ("version=11000", &[], "gates_without_host", "host functions"),
        ("", &["cuMemMap"], "virtual_memory", "lacks functions"),
        ("", &["cuStreamWaitValue64_v2"], "gates_without_host", "host functions"),
    ];
    for (settings, without, name, reason) in cases {
        let machine = Machine::lacking(&[Vendor::Cuda], settings, without);
        let report = report(&machine, &[]);
        let cuda = report["devices"].as_array().unwrap().iter();
        let device = cuda.clone().find(|device| device["name"] == "cuda:0").unwrap();
        assert_eq!(ability(device, name)["on"], false, "{settings}{without:?}: {device}");
        assert_says(ability(device, name)["detail"].as_str().unwrap(), &[reason]);
        for function in without {
            assert_says(&findings(&report, "note"), &[function]);
        }
    }
}

#[test]
fn hip_says_what_is_mistrusted_and_tries_it_on_request() {
    let machine = Machine::with(&[Vendor::Hip], "version=70000000");
    let cautious = report(&machine, &["--device", "hip:0"]);
    let reason = &ability(&cautious["devices"][0], "memory_pools")["detail"];
    assert_says(reason.as_str().unwrap(), &["pools=on"]);
    let bold = report(&machine, &["--device", "hip:0,pools=on,vmm=on"]);
    for name in ["virtual_memory", "memory_pools"] {
        assert_eq!(ability(&bold["devices"][0], name)["on"], true, "{name}");
    }
    let stale = Machine::with(&[Vendor::Hip], "version=70000000,vmm_stale=on");
    let found = report(&stale, &["--device", "hip:0,vmm=on"]);
    let reason = &ability(&found["devices"][0], "virtual_memory")["detail"];
    assert_says(reason.as_str().unwrap(), &["self-test failed"]);
}

#[test]
fn the_conf_is_told_as_it_works_on_the_device() {
    let machine = Machine::with(&[Vendor::Cuda], "vmm=off,pools=off");
    let conf = |text| report(&machine, &["--device", "cuda:0", "--conf", text]);
    let expandable = conf("expandable_segments:True,max_split_size_mb:64");
    assert_eq!(expandable["conf"]["policy"], "expandable");
    assert_eq!(expandable["devices"][0]["conf"]["policy"], "caching");
    let notes = findings(&expandable, "note");
    assert_says(&notes, &["caching stands in for expandable", "max_split_size_mb has no effect"]);
    let mempool = conf("backend:cudaMallocAsync");
    let refused = mempool["devices"][0]["conf"]["refused"].as_str().unwrap();
    assert_says(refused, &["cuda:0", "policy:caching"]);
    assert_says(&findings(&mempool, "problem"), &["policy:caching"]);
    let capped = Machine::with(&[Vendor::Cuda], "version=12000");
    let arguments = ["--device", "cuda:0", "--conf", "policy:mempool,limit_mb:8"];
    assert_says(&findings(&report(&capped, &arguments), "problem"), &["a limit of 8.00 MiB"]);
}

#[test]
fn variables_are_read_named_and_diagnosed() {
    let place = Place::new();
    let doctor = |arguments: &[&str], variable: &str, value: &str| {
        let all = [&["doctor", "--json"], arguments].concat();
        let output = place.command(&all).env(variable, value).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let theirs = "PYTORCH_CUDA_ALLOC_CONF";
    let ignored = doctor(&[], theirs, "expandable_segments:True");
    assert_eq!(ignored["conf"]["policy"], "caching");
    assert_says(&findings(&ignored, "note"), &[theirs, "--pytorch-env"]);
    let honoured = doctor(&["--pytorch-env"], theirs, "expandable_segments:True");
    assert_eq!(honoured["conf"]["policy"], "expandable");
    assert_eq!(honoured["conf"]["options"][0]["source"], theirs);
    assert!(!findings(&honoured, "note").contains(theirs));
    let wrong = doctor(&[], "RIVERBED_ALLOC_CONF", "limt_mb:8");
    assert_says(&findings(&wrong, "problem"), &["limt_mb", "RIVERBED_ALLOC_CONF"]);
}

#[test]
fn wrong_usage_is_told_apart_from_a_device_that_is_absent() {
    fail(&["doctor", "--conf", "limt_mb:8"], 2, &["limt_mb", "limit_mb"]);
    fail(&["doctor", "--device", "toaster"], 2, &["toaster", "cuda:0"]);
    let machine = Machine::with(&[Vendor::Cuda], "");
    for (device, code, words) in [("cuda:7", 1, "cuda:0"), ("cuda:x", 2, "counted from 0")] {
        let (run, _) = machine.run(&["doctor", "--device", device]);
        assert_eq!(run.code, Some(code), "{}", run.err);
        assert_says(&run.err, &[device, words]);
    }
    let broken = Machine::with(&[Vendor::Cuda], "init=4242");
    let (run, _) = broken.run(&["doctor", "--device", "cuda:0", "--json"]);
    assert_eq!(run.code, Some(1));
    let report: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(report["devices"][0]["usable"], false);
    assert_says(&findings(&report, "problem"), &["4242", "dmesg"]);
    let held = Machine::with(&[Vendor::Cuda], "fail=cuDevicePrimaryCtxRetain@1/2");
    let (run, _) = held.run(&["doctor", "--device", "cuda:0", "--json"]);
    assert_eq!(run.code, Some(1));
    let report: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(report["devices"][0]["driver"]["version"], "12.8", "what can be told is told");
}

#[test]
fn the_host_and_the_simulator_are_looked_at_on_request() {
    for device in ["host:vram=64MiB", "sim:rtx3060"] {
        let report = json(&["doctor", "--json", "--device", device]);
        assert_eq!(report["devices"][0]["usable"], true);
        assert!(report["devices"][0]["driver"].is_null());
    }
}
