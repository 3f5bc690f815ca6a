//! Opening a GPU: the library, the device, and what of it can be used.

use std::ffi::{CStr, c_char};
use std::sync::{Arc, Mutex};

use super::abi::{AllocationProperties, GRANULARITY_MINIMUM, INVALID_DEVICE, NO_DEVICE};
use super::calls::{Calls, Part};
use super::card::{Card, attribute_of, error};
use super::driver::GpuDriver;
use super::gates::Gates;
use super::library::{self, Found};
use super::symbols::Refusal;
use super::vendor::Vendor;
use super::{GpuSpec, pci, trial};
use crate::base::{Error, MIB, Result, format_bytes};
use crate::device::contract::Driver;
use crate::device::info::{DeviceInfo, DriverInfo};
use crate::device::open::Listing;

/// Page size where the driver has no virtual memory to ask for it: that of both vendors' large
/// pages.
const PAGE_BYTES: u64 = 2 * MIB;
/// Room for a device's name or address, as the drivers' samples give it.
const TEXT_BYTES: usize = 256;

/// Opens the device that `spec` says, under `name`.
pub(in crate::device) fn open<V: Vendor>(name: &str, spec: &GpuSpec) -> Result<Arc<dyn Driver>> {
    let absent = |reason: String| Error::Unsupported {
        what: format!("device '{name}'"),
        by: "this machine".into(),
        way_out: format!("{reason}; 'host' needs no GPU"),
    };
    let library = Loaded::<V>::open(spec).map_err(|unusable| absent(unusable.reason))?;
    let failed = |refusal| Error::from(error(&library.vendor, name, "open", refusal));
    let count = library.devices().map_err(failed)?;
    if count == 0 {
        return Err(absent(library.no_device()));
    }
    let ordinal = i32::try_from(spec.ordinal).ok().filter(|&ordinal| ordinal < count);
    let Some(ordinal) = ordinal else {
        let last = count - 1;
        return Err(absent(match last {
            0 => format!("the only {} device here is {}:0", V::NAME, V::KIND),
            _ => format!("{} devices here are {}:0 to {}:{last}", V::NAME, V::KIND, V::KIND),
        }));
    };
    library.start(name, spec, ordinal)
}

/// The devices of this vendor as `riverbed devices` lists them: without taking hold of any.
pub(in crate::device) fn survey<V: Vendor>() -> Vec<Listing> {
    let absent = |Unusable { reason, driver }| Listing {
        name: V::KIND.into(),
        available: false,
        detail: format!("absent: {reason}"),
        info: None,
        driver: driver.map(|driver| *driver),
    };
    let spec = GpuSpec::default();
    let library = match Loaded::<V>::open(&spec) {
        Ok(library) => library,
        Err(unusable) => return vec![absent(unusable)],
    };
    let count = match library.devices() {
        Ok(0) => return vec![absent(library.unusable(library.no_device()))],
        Ok(count) => count,
        Err(refusal) => {
            let failed = error(&library.vendor, V::KIND, "list", refusal);
            return vec![absent(library.unusable(failed.to_string()))];
        }
    };
    (0..count)
        .map(|ordinal| {
            let name = format!("{}:{ordinal}", V::KIND);
            match library.describe(&name, &spec, ordinal) {
                Ok((info, driver)) => Listing {
                    name,
                    available: true,
                    detail: info.description.clone(),
                    info: Some(info),
                    driver: Some(driver),
                },
                Err(refusal) => {
                    let failed = error(&library.vendor, &name, "list", refusal);
                    Listing { name, ..absent(library.unusable(failed.to_string())) }
                }
            }
        })
        .collect()
}

/// A vendor's library, ready to be asked.
struct Loaded<V> {
    found: Found,
    calls: Calls,
    vendor: V,
    version: (u32, u32),
}

/// Why a vendor's GPUs cannot be used, and what was found of its library, where one loads.
struct Unusable {
    reason: String,
    driver: Option<Box<DriverInfo>>,
}

impl<V: Vendor> Loaded<V> {
    /// Loads the library and makes it ready.
    fn open(spec: &GpuSpec) -> Result<Self, Unusable> {
        let names = match &spec.library {
            Some(path) => vec![path.display().to_string()],
            None => V::libraries(),
        };
        let found = library::open(&names).map_err(|reason| Unusable {
            reason: format!("no {} driver library found ({reason})", V::NAME),
            driver: None,
        })?;
        // SAFETY: the names are those of this vendor's driver, or the user's for it, and the
        // library is never closed.
        let (calls, vendor) = unsafe { (Calls::find(found.library, V::COLUMN), V::find(&found)) };
        let mut library = Self { found, calls, vendor, version: (0, 0) };
        let ready = library.make_ready();
        match ready {
            Ok(()) => Ok(library),
            Err(reason) => Err(library.unusable(reason)),
        }
    }

    /// Asks the library for its version and initialises it; else says why it cannot be used.
    fn make_ready(&mut self) -> Result<(), String> {
        if let Some((symbol, _)) = self.missing().find(|(_, part)| *part == Part::Core) {
            return Err(format!(
                "{} loads, but has no {symbol}: it is too old, or no {} driver",
                self.found.name,
                V::NAME
            ));
        }
        let initialised = self.vendor.init(&self.calls);
        let mut version = 0;
        // SAFETY: the pointer is to a live int. The call needs no initialised library.
        let asked = unsafe { self.calls.driver_version(&raw mut version) };
        self.version = V::version(u32::try_from(version).unwrap_or_default());
        initialised.and(asked).map_err(|refusal| match refusal.status {
            NO_DEVICE | INVALID_DEVICE => self.no_device(),
            _ => {
                let failed = error(&self.vendor, V::KIND, "initialising", refusal);
                format!("{} loads, but {failed}", self.found.name)
            }
        })
    }

    fn unusable(&self, reason: String) -> Unusable {
        Unusable { reason, driver: Some(Box::new(self.driver_info())) }
    }

    /// What can be told of the library alone.
    fn driver_info(&self) -> DriverInfo {
        let version = match self.version {
            (0, 0) => "unknown".into(),
            (major, minor) => format!("{major}.{minor}"),
        };
        let missing = self.missing().map(|(symbol, part)| (symbol.into(), part.cost().into()));
        DriverInfo {
            vendor: V::NAME.into(),
            library: self.found.name.clone(),
            version,
            missing: missing.collect(),
            waits_for_values: false,
            batch_copies: self.vendor.copies_batches(),
            notes: Vec::new(),
            pci_bus_id: None,
            numa_node: None,
            pcie_link: None,
        }
    }

    fn missing(&self) -> impl Iterator<Item = (&'static str, Part)> {
        self.calls.missing().into_iter().chain(self.vendor.missing())
    }

    /// Whether a function for `part` is missing.
    fn lacks(&self, part: Part) -> bool {
        self.missing().any(|(_, missing)| missing == part)
    }

    fn devices(&self) -> Result<i32, Refusal> {
        let mut count = 0;
        // SAFETY: the pointer is to a live int.
        match unsafe { self.calls.device_count(&raw mut count) } {
            Err(refusal) if [NO_DEVICE, INVALID_DEVICE].contains(&refusal.status) => Ok(0),
            asked => asked.map(|()| count.max(0)),
        }
    }

    fn no_device(&self) -> String {
        format!("{} loads, but there is no device", self.found.name)
    }

    /// The driver's handle of a device.
    fn device(&self, ordinal: i32) -> Result<i32, Refusal> {
        let mut device = 0;
        // SAFETY: the pointer is to a live int.
        unsafe { self.calls.device_get(&raw mut device, ordinal) }?;
        Ok(device)
    }

    /// What can be told of a device without taking hold of it.
    fn describe(
        &self,
        name: &str,
        spec: &GpuSpec,
        ordinal: i32,
    ) -> Result<(DeviceInfo, DriverInfo), Refusal> {
        let device = self.device(ordinal)?;
        let mut total = 0;
        // SAFETY: the pointer is to a live number.
        unsafe { self.calls.device_total(&raw mut total, device) }?;
        let title = text(|to, len| {
            // SAFETY: the buffer has this length.
            unsafe { self.calls.device_name(to, len, device) }
        })?;
        let bus_id = text(|to, len| {
            // SAFETY: the buffer has this length.
            unsafe { self.calls.device_pci_bus_id(to, len, device) }
        });
        let bus_id = bus_id.ok().filter(|text| !text.is_empty());
        let mut notes = Vec::new();
        let virtual_memory = self.virtual_memory(spec, device, &mut notes);
        let memory_pools = self.memory_pools(spec, device, &mut notes);
        let pool_caps = memory_pools && self.version >= V::POOL_CAPS_FROM;
        if memory_pools && !pool_caps {
            let (major, minor) = V::POOL_CAPS_FROM;
            notes.push(format!("pools keep to no cap before version {major}.{minor}"));
        }
        let waits_for_values = self.vendor.waits_for_values()
            && attribute_of(&self.calls, device, V::ATTRIBUTES.wait_value) > 0;
        if !waits_for_values {
            notes.push(Part::Gates.cost().into());
        }
        let granularity = if virtual_memory { self.granularity(device) } else { None };
        let engines = attribute_of(&self.calls, device, V::ATTRIBUTES.copy_engines);
        let (major, minor) = self.version;
        let info = DeviceInfo {
            name: name.into(),
            description: format!(
                "{title} ({}, {} {major}.{minor})",
                format_bytes(total as u64),
                V::NAME
            ),
            total_bytes: total as u64,
            granularity_bytes: granularity.unwrap_or(PAGE_BYTES),
            virtual_memory,
            memory_pools,
            pool_caps,
            process_pool: memory_pools && !self.lacks(Part::ProcessPool),
            host_accessible: false,
            simulated: false,
            copy_engines: u32::try_from(engines).unwrap_or_default().max(1),
        };
        let driver = DriverInfo {
            waits_for_values,
            notes,
            numa_node: bus_id.as_deref().and_then(pci::numa_node),
            pcie_link: bus_id.as_deref().and_then(pci::link),
            pci_bus_id: bus_id,
            ..self.driver_info()
        };
        Ok((info, driver))
    }

    /// Whether virtual memory is to be used, as far as settings, functions and attributes say.
    fn virtual_memory(&self, spec: &GpuSpec, device: i32, notes: &mut Vec<String>) -> bool {
        let lacks = self.lacks(Part::VirtualMemory);
        let has = attribute_of(&self.calls, device, V::ATTRIBUTES.virtual_memory) > 0;
        let (major, minor) = V::VIRTUAL_MEMORY_FROM;
        let off = match spec.virtual_memory {
            Some(false) => "vmm=off was asked for".into(),
            _ if lacks => "the driver lacks functions for it".into(),
            _ if !has => "the device does not support it".into(),
            _ if self.version < V::VIRTUAL_MEMORY_AT_ALL_FROM => {
                "this version is called in another way".into()
            }
            None if self.version < (major, minor) => {
                format!("not used before version {major}.{minor} unless vmm=on asks for it")
            }
            _ => return true,
        };
        notes.push(format!("no virtual memory: {off}"));
        false
    }

    /// Whether the driver's pools are to be used, as far as settings, functions and attributes
    /// say.
    fn memory_pools(&self, spec: &GpuSpec, device: i32, notes: &mut Vec<String>) -> bool {
        let lacks = self.lacks(Part::Pools);
        let has = attribute_of(&self.calls, device, V::ATTRIBUTES.pools) > 0;
        let off = match spec.memory_pools {
            Some(false) => "pools=off was asked for",
            _ if lacks => "the driver lacks functions for them",
            _ if !has => "the device does not support them",
            None if !V::POOLS => "known to corrupt or leak on this vendor; pools=on tries them",
            _ => return true,
        };
        notes.push(format!("no stream-ordered pools: {off}"));
        false
    }

    fn granularity(&self, device: i32) -> Option<u64> {
        let properties = AllocationProperties::on_device(device);
        let mut bytes = 0;
        // SAFETY: pointers to live values.
        let asked = unsafe {
            self.calls.page_granularity(&raw mut bytes, &raw const properties, GRANULARITY_MINIMUM)
        };
        asked.ok().map(|()| bytes as u64).filter(|bytes| bytes.is_power_of_two())
    }

    /// Takes hold of a device and makes a driver of it.
    fn start(self, name: &str, spec: &GpuSpec, ordinal: i32) -> Result<Arc<dyn Driver>> {
        let failed = |vendor: &V, refusal| Error::from(error(vendor, name, "open", refusal));
        let (mut info, mut driver_info) =
            self.describe(name, spec, ordinal).map_err(|refusal| failed(&self.vendor, refusal))?;
        let device = self.device(ordinal).map_err(|refusal| failed(&self.vendor, refusal))?;
        let Self { calls, vendor, .. } = self;
        let card = Card::retain(vendor, calls, device)
            .map_err(|(vendor, refusal)| failed(&vendor, refusal))?;
        let (mut least, mut greatest) = (0, 0);
        card.inside(|calls| {
            // SAFETY: pointers to live ints.
            unsafe { calls.priority_range(&raw mut least, &raw mut greatest) }
        })
        .map_err(|refusal| {
            card.let_go();
            failed(&card.vendor, refusal)
        })?;
        if !V::TRUSTED {
            trial::keep_what_works(&card, &mut info, &mut driver_info);
        }
        for note in &driver_info.notes {
            tracing::info!(device = name, "{note}");
        }
        let waits_for_values = driver_info.waits_for_values;
        Ok(Arc::new(GpuDriver {
            info,
            driver_info,
            high_priority: greatest,
            made: Default::default(),
            mappings: Mutex::default(),
            gates: Gates::new(waits_for_values),
            card: Arc::new(card),
        }))
    }
}

/// The text that `ask` writes to a buffer.
fn text(ask: impl FnOnce(*mut c_char, i32) -> Result<(), Refusal>) -> Result<String, Refusal> {
    let mut buffer = [0_u8; TEXT_BYTES];
    // One byte short, so that it ends in zero whatever is written.
    ask(buffer.as_mut_ptr().cast(), TEXT_BYTES as i32 - 1)?;
    let text = CStr::from_bytes_until_nul(&buffer).unwrap_or_default();
    Ok(text.to_string_lossy().trim().to_owned())
}
