//! What the fake is told: by `RIVERBED_FAKE` at its first call, or by `riverbed_fake_set`.
//!
//! A list of `key=value`, separated by commas. Those of [`Settings`] hold from the first call on;
//! `fail`, `lost` and `heal` may come at any time.

use std::path::PathBuf;

use riverbed::base::{MIB, parse_bytes};

use crate::Vendor;

/// What a fake is, from its first call on.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How many devices there are.
    pub devices: usize,
    /// Device memory of each in bytes, of which `system` bytes are never free.
    pub vram: u64,
    /// What somebody else holds of each device.
    pub system: u64,
    /// In the vendor's own encoding.
    pub version: i32,
    /// What the first call answers instead of success.
    pub init: u32,
    /// What the count of devices answers instead of success.
    pub count: u32,
    pub vmm: bool,
    pub pools: bool,
    /// Pools whose size can be capped.
    pub pool_caps: bool,
    pub host_register: bool,
    pub read_only_register: bool,
    /// Registered memory has its own address on the device.
    pub same_host_pointer: bool,
    /// Streams wait for values in memory.
    pub wait_value: bool,
    pub integrated: bool,
    pub engines: i32,
    pub numa: i32,
    pub granularity: u64,
    pub recommended_granularity: u64,
    /// How long after its work an event completes.
    pub late_us: u64,
    /// Freeing waits for the whole device.
    pub free_waits: bool,
    /// How long a call waits for a device that cannot go on.
    pub longest_wait_ms: u64,
    /// What fresh memory holds; `None` leaves it as it is.
    pub garbage: Option<u8>,
    /// The code object target that loads.
    pub target: String,
    /// Physical memory stays taken while the addresses it was mapped at are reserved.
    pub vmm_keeps: bool,
    /// Memory mapped where other memory was shows the bytes of that.
    pub vmm_stale: bool,
    /// Access can be set for a range of several mappings.
    pub access_many: bool,
    /// `hipMallocAsync` and its like work.
    pub malloc_async: bool,
    /// Where the report is written when the process ends.
    pub report: Option<PathBuf>,
}

impl Settings {
    pub fn new(vendor: Vendor) -> Self {
        Self {
            devices: 1,
            vram: 256 * MIB,
            system: 6 * MIB,
            version: match vendor {
                Vendor::Cuda => 12_080,
                Vendor::Hip => 60_342_134,
            },
            init: 0,
            count: 0,
            vmm: true,
            pools: true,
            pool_caps: true,
            host_register: true,
            read_only_register: true,
            same_host_pointer: true,
            wait_value: true,
            integrated: false,
            engines: 2,
            numa: 0,
            granularity: 2 * MIB,
            recommended_granularity: 2 * MIB,
            late_us: 20,
            free_waits: true,
            longest_wait_ms: 10_000,
            garbage: Some(0xa5),
            target: "gfx942".into(),
            vmm_keeps: false,
            vmm_stale: false,
            access_many: true,
            malloc_async: true,
            report: None,
        }
    }

    /// Takes one `key=value`; gives false when it is not one of these.
    pub fn take(&mut self, key: &str, value: &str) -> bool {
        fn put<T>(slot: &mut T, value: Option<T>) -> bool {
            value.map(|value| *slot = value).is_some()
        }
        let bytes = || parse_bytes(value).ok();
        let switch = || match value {
            "on" => Some(true),
            "off" => Some(false),
            _ => None,
        };
        match key {
            "devices" => put(&mut self.devices, value.parse().ok()),
            "vram" => put(&mut self.vram, bytes()),
            "system" => put(&mut self.system, bytes()),
            "version" => put(&mut self.version, value.parse().ok()),
            "init" => put(&mut self.init, value.parse().ok()),
            "count" => put(&mut self.count, value.parse().ok()),
            "vmm" => put(&mut self.vmm, switch()),
            "pools" => put(&mut self.pools, switch()),
            "pool_caps" => put(&mut self.pool_caps, switch()),
            "host_register" => put(&mut self.host_register, switch()),
            "read_only_register" => put(&mut self.read_only_register, switch()),
            "same_host_pointer" => put(&mut self.same_host_pointer, switch()),
            "wait_value" => put(&mut self.wait_value, switch()),
            "integrated" => put(&mut self.integrated, switch()),
            "engines" => put(&mut self.engines, value.parse().ok()),
            "numa" => put(&mut self.numa, value.parse().ok()),
            "granularity" => put(&mut self.granularity, bytes()),
            "recommended_granularity" => put(&mut self.recommended_granularity, bytes()),
            "late_us" => put(&mut self.late_us, value.parse().ok()),
            "free_waits" => put(&mut self.free_waits, switch()),
            "longest_wait_ms" => put(&mut self.longest_wait_ms, value.parse().ok()),
            "garbage" => put(
                &mut self.garbage,
                if value == "off" { Some(None) } else { value.parse().ok().map(Some) },
            ),
            "target" => put(&mut self.target, Some(value.to_string())),
            "vmm_keeps" => put(&mut self.vmm_keeps, switch()),
            "vmm_stale" => put(&mut self.vmm_stale, switch()),
            "access_many" => put(&mut self.access_many, switch()),
            "malloc_async" => put(&mut self.malloc_async, switch()),
            "report" => put(&mut self.report, Some(Some(value.into()))),
            _ => false,
        }
    }
}
