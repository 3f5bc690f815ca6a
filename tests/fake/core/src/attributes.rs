//! What a device and an address say of themselves, free of either vendor's numbers.

use crate::fake::Fake;

/// A question to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attribute {
    AsyncEngines,
    VirtualMemory,
    Pools,
    HostRegister,
    ReadOnlyRegister,
    SameHostPointer,
    WaitValue,
    Integrated,
    HostNumaId,
    PciBus,
    PciDevice,
    PciDomain,
    ComputeMajor,
    ComputeMinor,
    Multiprocessors,
    ClockKhz,
    /// Anything else a device of its kind has, with its value.
    Always(i32),
}

/// What is known of an address.
#[derive(Debug, Clone, Copy)]
pub struct PointerFacts {
    pub on_device: bool,
    pub gpu: usize,
    pub start: u64,
    pub bytes: u64,
    pub device_address: u64,
    /// 0 for memory of a device.
    pub host_address: u64,
}

impl Fake {
    pub fn attribute(&self, attribute: Attribute, gpu: usize) -> i32 {
        let settings = &self.settings;
        match attribute {
            Attribute::AsyncEngines => settings.engines,
            Attribute::VirtualMemory => settings.vmm.into(),
            Attribute::Pools => settings.pools.into(),
            Attribute::HostRegister => settings.host_register.into(),
            Attribute::ReadOnlyRegister => settings.read_only_register.into(),
            Attribute::SameHostPointer => settings.same_host_pointer.into(),
            Attribute::WaitValue => settings.wait_value.into(),
            Attribute::Integrated => settings.integrated.into(),
            Attribute::HostNumaId => settings.numa,
            Attribute::PciBus => gpu as i32 + 1,
            Attribute::PciDevice | Attribute::PciDomain => 0,
            Attribute::ComputeMajor => 9,
            Attribute::ComputeMinor => 0,
            Attribute::Multiprocessors => 8,
            Attribute::ClockKhz => 100_000,
            Attribute::Always(value) => value,
        }
    }

    /// What is known of an address; `None` of memory the driver never saw.
    pub fn pointer(&self, at: u64) -> Option<PointerFacts> {
        let state = self.state();
        let holds = |start: u64, bytes: u64| (start..start + bytes).contains(&at);
        if let Some((&start, block)) = state.blocks.range(..=at).next_back()
            && holds(start, block.bytes)
        {
            let (gpu, bytes) = (block.gpu, block.bytes);
            let (device_address, host_address) = (at, 0);
            return Some(PointerFacts {
                on_device: true,
                gpu,
                start,
                bytes,
                device_address,
                host_address,
            });
        }
        if let Some((&start, mapping)) = state.mappings.range(..=at).next_back()
            && holds(start, mapping.bytes)
        {
            let (gpu, bytes) = (mapping.gpu, mapping.bytes);
            let (device_address, host_address) = (at, 0);
            return Some(PointerFacts {
                on_device: true,
                gpu,
                start,
                bytes,
                device_address,
                host_address,
            });
        }
        let (&start, pinned) = state.pinned.range(..=at).next_back()?;
        if !holds(start, pinned.bytes) {
            return None;
        }
        let (gpu, bytes) = (pinned.gpu, pinned.bytes);
        let device_address = at + pinned.alias_offset;
        Some(PointerFacts { on_device: false, gpu, start, bytes, device_address, host_address: at })
    }
}
