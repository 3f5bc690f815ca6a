//! Where a GPU sits, as the kernel tells in `/sys/bus/pci/devices`.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

/// The NUMA node of the device at `bus_id` (`0000:17:00.0`), where the kernel knows one.
pub(super) fn numa_node(bus_id: &str) -> Option<u32> {
    attribute(&directory(bus_id)?, "numa_node")?.parse().ok()
}

/// The link now and at best. GPUs slow their link down when idle.
pub(super) fn link(bus_id: &str) -> Option<String> {
    link_in(&directory(bus_id)?)
}

fn link_in(directory: &Path) -> Option<String> {
    let part = |name| attribute(directory, name).filter(|text| !text.starts_with("Unknown"));
    let now = format!("{} x{}", part("current_link_speed")?, part("current_link_width")?);
    let best = format!("{} x{}", part("max_link_speed")?, part("max_link_width")?);
    Some(if now == best { now } else { format!("{now} now, {best} at best") })
}

/// The kernel's directory of a device; none where the address is not one.
fn directory(bus_id: &str) -> Option<PathBuf> {
    // Drivers write the letters of the number in capitals.
    let bus_id = bus_id.to_ascii_lowercase();
    let plain = bus_id.chars().all(|letter| letter.is_ascii_hexdigit() || ":.".contains(letter));
    plain.then(|| Path::new("/sys/bus/pci/devices").join(bus_id))
}

fn attribute(directory: &Path, name: &str) -> Option<String> {
    let text = read_to_string(directory.join(name)).ok()?;
    Some(text.trim().trim_end_matches(" PCIe").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_below_its_best_says_both() {
        let device = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(device.path().join(name), format!("{text}\n")).unwrap();
        };
        assert_eq!(link_in(device.path()), None, "no such files");
        write("current_link_speed", "2.5 GT/s PCIe");
        write("current_link_width", "16");
        write("max_link_speed", "16.0 GT/s PCIe");
        write("max_link_width", "16");
        let both = link_in(device.path()).unwrap();
        assert_eq!(both, "2.5 GT/s x16 now, 16.0 GT/s x16 at best");
        write("current_link_speed", "16.0 GT/s PCIe");
        assert_eq!(link_in(device.path()).unwrap(), "16.0 GT/s x16");
        write("max_link_speed", "Unknown");
        assert_eq!(link_in(device.path()), None);
    }

    #[test]
    fn what_a_driver_says_leads_nowhere_else() {
        assert_eq!(directory("../../class/net"), None);
        let device = directory("0000:AF:00.0").unwrap();
        assert!(device.ends_with("0000:af:00.0"), "{device:?}");
    }
}
