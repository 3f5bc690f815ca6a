//! The runtime itself and its devices.

use std::ffi::c_char;

use riverbed_fake_core::status::{INVALID_VALUE, SUCCESS};
use riverbed_fake_core::{
    Answer, Attribute, Fake, Out, Vendor, misuse, name_of, put_text, text_of,
};

use crate::exports;
use crate::structs::{DeviceProperties, OldDeviceProperties, PointerAttributes};

/// Where the target's name stands in `hipDeviceProp_tR0600`, and in what was before.
const TARGET_OFFSET: usize = 1160;
const OLD_TARGET_OFFSET: usize = 396;

exports! {
    fn hipInit(flags: u32) Nothing |fake| {
        if flags != 0 {
            return Err(misuse("invalid_argument", "flags of hipInit", INVALID_VALUE));
        }
        fake.start_hip()
    };
    fn hipDriverGetVersion(version: Out<i32>) Nothing |fake| version.put(fake.version());
    fn hipRuntimeGetVersion(version: Out<i32>) Nothing |fake| version.put(fake.version());
    fn hipGetDeviceCount(count: Out<i32>) Nothing |fake| match fake.hip_device_count() {
        Ok(devices) => count.put(devices),
        Err(status) => {
            count.put(0)?;
            Err(status)
        }
    };
    fn hipDeviceGet(device: Out<i32>, ordinal: i32) Init |fake| {
        fake.gpu(ordinal)?;
        device.put(ordinal)
    };
    fn hipDeviceGetName(name: Out<c_char>, len: i32, device: i32) Init |fake|
        put_text(name, len, &fake.device_name(fake.gpu(device)?));
    fn hipDeviceTotalMem(bytes: Out<usize>, device: i32) Init |fake| {
        fake.gpu(device)?;
        bytes.put(fake.total_bytes())
    };
    fn hipDeviceGetAttribute(value: Out<i32>, attribute: u32, device: i32) Init |fake| {
        let gpu = fake.gpu(device)?;
        value.put(fake.attribute(attribute_of(attribute, fake.version())?, gpu))
    };
    fn hipDeviceGetPCIBusId(id: Out<c_char>, len: i32, device: i32) Init |fake|
        put_text(id, len, &fake.pci_bus_id(fake.gpu(device)?));
    fn hipGetDevicePropertiesR0600(properties: Out<DeviceProperties>, device: i32) Init |fake| {
        let mut bytes = [0; 1472];
        put_names(&mut bytes, TARGET_OFFSET, fake, fake.gpu(device)?);
        properties.put(DeviceProperties(bytes))
    };
    fn hipGetDeviceProperties(properties: Out<OldDeviceProperties>, device: i32) Init |fake| {
        let mut bytes = [0; 792];
        put_names(&mut bytes, OLD_TARGET_OFFSET, fake, fake.gpu(device)?);
        properties.put(OldDeviceProperties(bytes))
    };
    fn hipGetDevice(device: Out<i32>) Init |fake| device.put(fake.current()? as i32);
    fn hipSetDevice(device: i32) Init |fake| {
        fake.set_device(fake.gpu(device)?);
        Ok(())
    };
    fn hipDeviceSynchronize() Context |fake| fake.synchronize_context();
    fn hipDeviceGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) Init |_fake| {
        least.put_if_wanted(1)?;
        greatest.put_if_wanted(-1)
    };
    fn hipMemGetInfo(free: Out<usize>, total: Out<usize>) Context |fake| {
        let (free_bytes, total_bytes) = fake.memory_info()?;
        free.put(free_bytes)?;
        total.put(total_bytes)
    };
    fn hipDeviceCanAccessPeer(can: Out<i32>, device: i32, peer: i32) Init |fake| {
        let (gpu, peer) = (fake.gpu(device)?, fake.gpu(peer)?);
        can.put(fake.can_access_peer(gpu, peer).into())
    };
    fn hipDeviceEnablePeerAccess(peer: i32, flags: u32) Context |fake|
        fake.enable_peer(fake.gpu(peer)?, flags);
    fn hipPointerGetAttributes(attributes: Out<PointerAttributes>, pointer: u64) Init |fake| {
        // Asking of memory the runtime does not know is how one finds out that it does not.
        let facts = fake.pointer(pointer).ok_or(INVALID_VALUE)?;
        // The numbers of the memory types moved by one in ROCm 6.
        let moved = u32::from(fake.version() >= 60_000_000);
        attributes.put(PointerAttributes {
            kind: u32::from(facts.on_device) + moved,
            device: facts.gpu as i32,
            device_address: facts.device_address,
            host_address: facts.host_address,
            is_managed: 0,
            flags: 0,
        })
    };
}

/// Gives the name of a status, of any number.
#[unsafe(no_mangle)]
pub extern "C" fn hipGetErrorName(error: u32) -> *const c_char {
    name_of(Vendor::Hip, error).unwrap_or(c"hipErrorUnknown".as_ptr())
}

/// Gives a status in words.
#[unsafe(no_mangle)]
pub extern "C" fn hipGetErrorString(error: u32) -> *const c_char {
    text_of(error).unwrap_or(c"unknown error".as_ptr())
}

/// Gives the thread's last failure and forgets it.
#[unsafe(no_mangle)]
pub extern "C" fn hipGetLastError() -> u32 {
    let status = crate::call("hipGetLastError", riverbed_fake_core::Need::Nothing, |_| Ok(()));
    if status == SUCCESS { crate::take_last_error() } else { status }
}

fn put_names(properties: &mut [u8], target_at: usize, fake: &Fake, gpu: usize) {
    let name = fake.device_name(gpu);
    properties[..name.len()].copy_from_slice(name.as_bytes());
    let target = format!("{}:sramecc+:xnack-", fake.target());
    properties[target_at..target_at + target.len()].copy_from_slice(target.as_bytes());
}

/// The attribute of that number. Older runtimes refuse what came later.
fn attribute_of(number: u32, version: i32) -> Answer<Attribute> {
    let since = match number {
        90 => 60_200_000,
        92 => 70_200_000,
        10_017 => 50_400_000,
        _ => 0,
    };
    if version < since {
        return Err(INVALID_VALUE);
    }
    Ok(match number {
        2 => Attribute::AsyncEngines,
        3 | 78 | 85 => Attribute::Always(1),
        4 => Attribute::SameHostPointer,
        5 | 10_017 => Attribute::ClockKhz,
        16 => Attribute::Integrated,
        23 => Attribute::ComputeMajor,
        56 => Attribute::Always(1024),
        61 => Attribute::ComputeMinor,
        63 => Attribute::Multiprocessors,
        67 => Attribute::PciBus,
        68 => Attribute::PciDevice,
        69 => Attribute::PciDomain,
        87 => Attribute::Always(64),
        88 => Attribute::Pools,
        89 => Attribute::VirtualMemory,
        90 => Attribute::HostRegister,
        92 => Attribute::HostNumaId,
        10_013 => Attribute::WaitValue,
        number if number < 100 || (10_000..10_030).contains(&number) => Attribute::Always(0),
        _ => return Err(misuse("invalid_argument", format!("attribute {number}"), INVALID_VALUE)),
    })
}
