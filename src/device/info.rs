//! What a device says of itself.

/// Constant facts about a device.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// The name it was opened under (`host`, `sim:rtx4090`).
    pub name: String,
    /// What it is, for people.
    pub description: String,
    /// Total device memory, in bytes.
    pub total_bytes: u64,
    /// Page size of its memory: allocations are aligned to it, pages are multiples of it.
    pub granularity_bytes: u64,
    /// True when `reserve`, `create_page`, `map` and `unmap` work.
    pub virtual_memory: bool,
    /// True when the calls of stream-ordered pools (`create_pool`, `pool_alloc`) work.
    pub memory_pools: bool,
    /// True when a pool keeps to the cap `create_pool` is given; older drivers know none.
    pub pool_caps: bool,
    /// True when the pool that the whole process draws from can be told and set (`current_pool`,
    /// `set_current_pool`).
    pub process_pool: bool,
    /// True when a [`DevicePtr`](super::DevicePtr) is an address the CPU may read and write.
    pub host_accessible: bool,
    /// True when memory holds no bytes and time is virtual: copies and kernels take their time
    /// and move nothing.
    pub simulated: bool,
    /// Copies of one direction that run at once.
    pub copy_engines: u32,
}

/// What was found of a vendor's driver, and what that means.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct DriverInfo {
    /// `CUDA` or `ROCm`.
    pub vendor: String,
    /// The library's name or path.
    pub library: String,
    /// The version, in words.
    pub version: String,
    /// Functions the library lacks, by name, each with what that costs.
    pub missing: Vec<(String, String)>,
    /// True when streams wait at gates for a word of memory, without the host.
    pub waits_for_values: bool,
    /// True when the driver takes many copies in one call.
    pub batch_copies: bool,
    /// What is off or done another way on this device, and why.
    pub notes: Vec<String>,
    /// The device's address on the PCI bus (`0000:17:00.0`).
    pub pci_bus_id: Option<String>,
    /// The NUMA node its memory traffic goes through.
    pub numa_node: Option<u32>,
    /// The link now and at best (`16.0 GT/s x16 of 32.0 GT/s x16`), as the kernel tells.
    pub pcie_link: Option<String>,
}

/// Device memory now, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct MemoryInfo {
    /// What the device has.
    pub total_bytes: u64,
    /// What no process holds.
    pub free_bytes: u64,
}
