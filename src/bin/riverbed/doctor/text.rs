//! The report for people.

use riverbed::base::format_bytes;
use riverbed::device::DriverInfo;
use riverbed::transfer::LinkProfile;

use super::Report;
use super::conf::ConfReport;
use super::devices::DeviceReport;
use super::findings::Finding;
use super::machine::Machine;
use crate::conf::effect;
use crate::text::table;

pub(super) fn for_people(report: &Report) -> String {
    let mut text = String::new();
    for device in &report.devices {
        section(&mut text, &device.name, &of_device(device));
    }
    section(&mut text, "conf", &of_conf(&report.conf));
    section(&mut text, "machine", &of_machine(&report.machine));
    text + "findings\n" + &table(&of_findings(&report.findings), &[])
}

type Rows = Vec<Vec<String>>;

fn section(text: &mut String, title: &str, rows: &Rows) {
    text.push_str(title);
    text.push('\n');
    text.push_str(&table(rows, &[]));
    text.push('\n');
}

fn row(name: &str, value: impl Into<String>) -> Vec<String> {
    vec![format!("  {name}"), value.into()]
}

fn of_device(device: &DeviceReport) -> Rows {
    let mut rows = Vec::new();
    if let Some(info) = &device.info {
        rows.push(row("device", &info.description));
    }
    if let Some(driver) = &device.driver {
        rows.extend(of_driver(driver));
    }
    if let Some(memory) = &device.memory {
        let (free, total) = (format_bytes(memory.free_bytes), format_bytes(memory.total_bytes));
        rows.push(row("memory", format!("{free} free of {total}")));
    }
    for ability in &device.abilities {
        let name = ability.name.replace('_', " ");
        let state = if ability.on { "yes" } else { "no" };
        let detail = &ability.detail;
        rows.push(row(
            &name,
            if detail.is_empty() { state.into() } else { format!("{state}: {detail}") },
        ));
    }
    rows.extend(device.link.iter().flat_map(of_link));
    if let Some(reason) = &device.link_reason {
        rows.push(row("link", format!("not measured: {reason}")));
    }
    if let Some(here) = &device.conf {
        let refused = here.refused.as_ref().map(|why| format!("refused: {why}"));
        rows.push(row("policy here", refused.unwrap_or_else(|| here.policy.clone())));
    }
    if let Some(reason) = &device.reason {
        rows.push(row("cannot be used", reason));
    }
    rows
}

fn of_driver(driver: &DriverInfo) -> Rows {
    let mut rows =
        vec![row("driver", format!("{} {}, {}", driver.vendor, driver.version, driver.library))];
    rows.extend(
        driver.missing.iter().map(|(name, cost)| row("missing", format!("{name}: {cost}"))),
    );
    let node = driver.numa_node.map(|node| format!("NUMA node {node}"));
    let place = [driver.pci_bus_id.clone(), node, driver.pcie_link.clone()];
    let place: Vec<String> = place.into_iter().flatten().collect();
    if !place.is_empty() {
        rows.push(row("PCI", place.join(", ")));
    }
    rows
}

fn of_link(link: &LinkProfile) -> Rows {
    let rate = |bytes_per_second: u64| format!("{:.2} GB/s", bytes_per_second as f64 / 1e9);
    let us = |ns: u64| format!("{:.1} us", ns as f64 / 1e3);
    let way = |alone, beside, latency| {
        format!(
            "{}, {} beside the other way, begins after {}",
            rate(alone),
            rate(beside),
            us(latency)
        )
    };
    let up = (link.h2d_bytes_per_second, link.h2d_beside_d2h_bytes_per_second);
    let down = (link.d2h_bytes_per_second, link.d2h_beside_h2d_bytes_per_second);
    let mut rows = vec![
        row("link to device", way(up.0, up.1, link.h2d_latency_ns)),
        row("link from device", way(down.0, down.1, link.d2h_latency_ns)),
    ];
    if let Some(pageable) = link.pageable_h2d_bytes_per_second {
        rows.push(row("pageable memory", format!("{} to device", rate(pageable))));
    }
    let chunk = format_bytes(link.chunk_bytes);
    let call = us(link.per_copy_overhead_ns);
    rows.push(row("copies", format!("{call} a call, chunks of {chunk}")));
    let (rounds, taken) = (link.rounds, link.taken_ns as f64 / 1e6);
    let copied = format_bytes(link.copied_bytes);
    rows.push(row("measured", format!("{rounds} rounds, {copied}, {taken:.1} ms")));
    rows
}

fn of_conf(conf: &ConfReport) -> Rows {
    if let Some(error) = &conf.error {
        return vec![row("cannot be read", error)];
    }
    let mut rows = vec![row("policy in force", conf.policy.clone().unwrap_or_default())];
    rows.extend(conf.options.iter().map(|option| {
        let policy = conf.policy.as_deref().unwrap_or_default();
        let what = format!("{} ({}): {}", option.value, option.source, effect(option, policy));
        row(option.key, what)
    }));
    rows
}

fn of_machine(machine: &Machine) -> Rows {
    let count = |number: Option<usize>| number.map_or("unknown".into(), |n| n.to_string());
    let bytes = |number: Option<u64>| number.map_or("unknown".into(), format_bytes);
    let memory = &machine.memory;
    let (free, total) = (bytes(memory.available_bytes), bytes(memory.total_bytes));
    let group = memory.group.as_ref().map_or("none".into(), |group| {
        let (free, limit) = (format_bytes(group.free_bytes()), format_bytes(group.limit_bytes));
        format!("{free} free of {limit}, {} (version {})", group.path.display(), group.version)
    });
    let budget = &machine.pinned_budget;
    vec![
        row("processors", count(machine.cpus)),
        row("NUMA nodes", count(machine.numa_nodes)),
        row("memory", format!("{free} free of {total}")),
        row("control group's limit", group),
        row("RLIMIT_MEMLOCK", machine.memlock_bytes.map_or("unlimited".into(), format_bytes)),
        row("pinned budget", format!("{}, {}", format_bytes(budget.bytes), budget.reason)),
        row(
            "huge pages",
            machine.transparent_huge_pages.clone().unwrap_or_else(|| "unknown".into()),
        ),
    ]
}

fn of_findings(findings: &[Finding]) -> Rows {
    let rows = findings.iter().map(|finding| {
        let way_out = finding.way_out.as_ref().map(|way| format!(" ({way})")).unwrap_or_default();
        let what = format!("{}{way_out}", finding.what);
        vec![format!("  {}", finding.severity.word()), finding.subject.clone(), what]
    });
    rows.collect()
}
