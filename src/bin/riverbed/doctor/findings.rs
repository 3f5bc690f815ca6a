//! What all of it means: findings, the worst last, each with the way out.

use riverbed::base::{GIB, format_bytes};
use riverbed::conf::Status;
use riverbed::device::DriverInfo;

use super::conf::ConfReport;
use super::devices::DeviceReport;
use super::machine::Machine;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    Ok,
    Note,
    Problem,
}

impl Severity {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Problem => "problem",
        }
    }
}

#[derive(serde::Serialize)]
pub(super) struct Finding {
    pub(super) severity: Severity,
    /// The device, `conf` or `machine`.
    pub(super) subject: String,
    pub(super) what: String,
    /// What to do about it; none where there is nothing to do.
    pub(super) way_out: Option<String>,
}

/// Everything there is to say.
pub(super) fn all(
    machine: &Machine,
    devices: &[DeviceReport],
    named: bool,
    conf: &ConfReport,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !named && !devices.iter().any(|device| device.usable) {
        findings.push(Finding {
            severity: Severity::Note,
            subject: "machine".into(),
            what: "no GPU can be used; 'host' and the simulator can".into(),
            way_out: None,
        });
    }
    for device in devices {
        Findings { subject: &device.name, all: &mut findings }.device(device, conf);
    }
    Findings { subject: "conf", all: &mut findings }.conf(conf);
    Findings { subject: "machine", all: &mut findings }.machine(machine);
    findings.sort_by_key(|finding| finding.severity);
    findings
}

/// What to do where a device cannot be used.
fn way_to_a_device(reason: &str) -> &'static str {
    if reason.contains("driver library found") {
        "install the vendor's driver, or name its file with library=PATH behind the device's name"
    } else if reason.contains("no device") || reason.contains("here ") {
        "see what this process may see: CUDA_VISIBLE_DEVICES, HIP_VISIBLE_DEVICES, the container"
    } else if reason.contains("too old") {
        "install a newer driver, or name its file with library=PATH behind the device's name"
    } else {
        "the vendor's tool (nvidia-smi, rocm-smi) and the kernel's log (dmesg) say more"
    }
}

/// The findings on one subject.
struct Findings<'a> {
    subject: &'a str,
    all: &'a mut Vec<Finding>,
}

impl Findings<'_> {
    fn add(&mut self, severity: Severity, what: String, way_out: Option<&str>) {
        let (subject, way_out) = (self.subject.into(), way_out.map(String::from));
        self.all.push(Finding { severity, subject, what, way_out });
    }

    fn device(&mut self, device: &DeviceReport, conf: &ConfReport) {
        if let Some(reason) = &device.reason {
            // A vendor without a device is no trouble by itself.
            let named = device.name.contains(':');
            let severity = if named { Severity::Problem } else { Severity::Note };
            return self.add(severity, reason.clone(), Some(way_to_a_device(reason)));
        }
        self.add(Severity::Ok, "can be used".into(), None);
        if let Some(driver) = &device.driver {
            self.driver(driver);
        }
        let Some(here) = &device.conf else { return };
        if let Some(refused) = &here.refused {
            // It says the way out itself.
            return self.add(Severity::Problem, format!("the conf: {refused}"), None);
        }
        let asked = conf.policy.as_deref().unwrap_or(&here.policy);
        if asked != here.policy {
            let way_out = "see virtual_memory above; vmm=on tries it where it is only mistrusted";
            let what = format!("policy {} stands in for {asked}", here.policy);
            self.add(Severity::Note, what, Some(way_out));
        }
    }

    fn driver(&mut self, driver: &DriverInfo) {
        for (function, cost) in &driver.missing {
            let way_out = "a newer driver has it";
            self.add(Severity::Note, format!("no {function}: {cost}"), Some(way_out));
        }
        for note in &driver.notes {
            self.add(Severity::Note, note.clone(), None);
        }
        if let Some(link) = driver.pcie_link.as_ref().filter(|link| link.contains("at best")) {
            let way_out = "normal while idle; where it stays so under load, look at slot and riser";
            self.add(Severity::Note, format!("PCIe link: {link}"), Some(way_out));
        }
    }

    fn conf(&mut self, conf: &ConfReport) {
        if let Some(error) = &conf.error {
            let way_out = "correct or unset the variable: nothing starts with it";
            self.add(Severity::Problem, error.clone(), Some(way_out));
        }
        for variable in &conf.ignored_variables {
            let way_out = "--pytorch-env here, pytorch_env() in programs, RIVERBED_ALLOC_CONF";
            self.add(Severity::Note, format!("{variable} is set and not read"), Some(way_out));
        }
        for option in &conf.options {
            let key = option.key;
            match option.status {
                Status::NotYet(why) => {
                    self.add(Severity::Note, format!("{key} has no effect yet: {why}"), None);
                }
                _ if option.unread => {
                    let policy = conf.policy.as_deref().unwrap_or_default();
                    let what = format!("{key} has no effect under policy {policy}");
                    self.add(Severity::Note, what, Some("leave it out, or choose another policy"));
                }
                _ => {}
            }
        }
    }

    fn machine(&mut self, machine: &Machine) {
        let budget = machine.pinned_budget.bytes;
        if budget < GIB {
            let what = format!("{} may be pinned: few weights stay in RAM", format_bytes(budget));
            let way_out = "free memory, raise the control group's limit, or set pinned_limit_mb";
            self.add(Severity::Note, what, Some(way_out));
        }
        if let Some(memlock) = machine.memlock_bytes.filter(|&bytes| bytes < budget) {
            let what = format!(
                "RLIMIT_MEMLOCK is {}, below the pinned budget of {}: a driver that counts pinned \
                 memory against it refuses more",
                format_bytes(memlock),
                format_bytes(budget)
            );
            self.add(Severity::Note, what, Some("'ulimit -l unlimited' where pinning fails"));
        }
        if machine.transparent_huge_pages.as_deref() == Some("never") {
            let what = "transparent huge pages are off: registering memory of one's own goes page \
                        by page of 4 KiB";
            let way_out = "'madvise' in /sys/kernel/mm/transparent_hugepage/enabled";
            self.add(Severity::Note, what.into(), Some(way_out));
        }
    }
}
