//! Where a GPU sits, as the kernel tells in `/sys/bus/pci/devices`.

use std::fs::read_to_string;
use std::path::PathBuf;

/// The NUMA node of the device at `bus_id` (`0000:17:00.0`), where the kernel knows one.
pub(super) fn numa_node(bus_id: &str) -> Option<u32> {
    attribute(bus_id, "numa_node")?.parse().ok()
}

/// The link now and at best. GPUs slow their link down when idle.
pub(super) fn link(bus_id: &str) -> Option<String> {
    let part = |name| attribute(bus_id, name);
    let now = format!("{} x{}", part("current_link_speed")?, part("current_link_width")?);
    let best = format!("{} x{}", part("max_link_speed")?, part("max_link_width")?);
    Some(if now == best { now } else { format!("{now} now, {best} at best") })
}

fn attribute(bus_id: &str, name: &str) -> Option<String> {
    // Drivers write the letters of the number in capitals.
    let bus_id = bus_id.to_ascii_lowercase();
    let plain = bus_id.chars().all(|letter| letter.is_ascii_hexdigit() || ":.".contains(letter));
    let path = PathBuf::from("/sys/bus/pci/devices").join(bus_id).join(name);
    let text = plain.then(|| read_to_string(path).ok()).flatten()?;
    Some(text.trim().trim_end_matches(" PCIe").to_owned())
}
