//! The driver itself, devices and contexts.

use std::ffi::c_char;
use std::ptr::null;

use riverbed_fake_core::status::{INVALID_VALUE, NOT_SUPPORTED};
use riverbed_fake_core::{
    Answer, Attribute, Out, PRIORITIES, Vendor, misuse, name_of, put_text, text_of,
};

use crate::exports;
use crate::structs::Uuid;

exports! {
    fn cuInit(flags: u32) Nothing |fake| {
        if flags != 0 {
            return Err(misuse("invalid_argument", "flags of cuInit", INVALID_VALUE));
        }
        fake.start()
    };
    fn cuDriverGetVersion(version: Out<i32>) Nothing |fake| version.put(fake.version());
    fn cuDeviceGetCount(count: Out<i32>) Init |fake| count.put(fake.device_count()?);
    fn cuDeviceGet(device: Out<i32>, ordinal: i32) Init |fake| {
        fake.gpu(ordinal)?;
        device.put(ordinal)
    };
    fn cuDeviceGetName(name: Out<c_char>, len: i32, dev: i32) Init |fake|
        put_text(name, len, &fake.device_name(fake.gpu(dev)?));
    fn cuDeviceTotalMem_v2(bytes: Out<usize>, dev: i32) Init |fake| {
        fake.gpu(dev)?;
        bytes.put(fake.total_bytes())
    };
    fn cuDeviceGetAttribute(value: Out<i32>, attribute: u32, dev: i32) Init |fake| {
        let gpu = fake.gpu(dev)?;
        value.put(fake.attribute(attribute_of(attribute, fake.version())?, gpu))
    };
    fn cuDeviceGetPCIBusId(id: Out<c_char>, len: i32, dev: i32) Init |fake|
        put_text(id, len, &fake.pci_bus_id(fake.gpu(dev)?));
    fn cuDeviceGetUuid(uuid: Out<Uuid>, dev: i32) Init |fake|
        uuid.put(Uuid(fake.uuid(fake.gpu(dev)?)));
    fn cuDeviceGetUuid_v2(uuid: Out<Uuid>, dev: i32) Init |fake|
        uuid.put(Uuid(fake.uuid(fake.gpu(dev)?)));
    fn cuDevicePrimaryCtxRetain(context: Out<u64>, dev: i32) Init |fake|
        context.put(fake.retain_context(fake.gpu(dev)?));
    fn cuDevicePrimaryCtxRelease_v2(dev: i32) Init |fake| fake.release_context(fake.gpu(dev)?);
    fn cuDevicePrimaryCtxGetState(dev: i32, flags: Out<u32>, active: Out<i32>) Init |fake| {
        let gpu = fake.gpu(dev)?;
        flags.put(0)?;
        active.put(fake.is_context_active(gpu).into())
    };
    fn cuCtxGetCurrent(context: Out<u64>) Init |fake| context.put(fake.current_context());
    fn cuCtxSetCurrent(context: u64) Init |fake| fake.set_context(context);
    fn cuCtxPushCurrent_v2(context: u64) Init |fake| fake.push_context(context);
    fn cuCtxPopCurrent_v2(context: Out<u64>) Init |fake|
        context.put_if_wanted(fake.pop_context()?);
    fn cuCtxGetDevice(device: Out<i32>) Context |fake| device.put(fake.current()? as i32);
    fn cuCtxSynchronize() Context |fake| fake.synchronize_context();
    fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) Context |_fake| {
        least.put_if_wanted(PRIORITIES.0)?;
        greatest.put_if_wanted(PRIORITIES.1)
    };
    fn cuGetErrorName(error: u32, name: Out<*const c_char>) Nothing |_fake|
        put_static(name, name_of(Vendor::Cuda, error));
    fn cuGetErrorString(error: u32, text: Out<*const c_char>) Nothing |_fake|
        put_static(text, text_of(error));
    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) Context |fake| {
        let (free_bytes, total_bytes) = fake.memory_info()?;
        free.put(free_bytes)?;
        total.put(total_bytes)
    };
    fn cuDeviceCanAccessPeer(can: Out<i32>, dev: i32, peer: i32) Init |fake| {
        let (gpu, peer) = (fake.gpu(dev)?, fake.gpu(peer)?);
        can.put(fake.can_access_peer(gpu, peer).into())
    };
    fn cuCtxEnablePeerAccess(peer: u64, flags: u32) Context |fake|
        fake.enable_peer(fake.device_of_context(peer)?, flags);
    fn cuPointerGetAttribute(data: riverbed_fake_core::Untyped, attribute: u32, ptr: u64) Init |fake| {
        // Asking of memory the driver does not know is how one finds out that it does not.
        let facts = fake.pointer(ptr).ok_or(INVALID_VALUE)?;
        match attribute {
            2 => data.put(if facts.on_device { 2_u32 } else { 1 }),
            3 => data.put(facts.device_address),
            4 if facts.host_address != 0 => data.put(facts.host_address),
            8 => data.put(0_u8),
            9 => data.put(facts.gpu as i32),
            11 => data.put(facts.start),
            12 => data.put(facts.bytes),
            13 => data.put(1_u8),
            _ => Err(NOT_SUPPORTED),
        }
    };
}

/// Text of the driver's own; null, with an error, for a status it does not know.
fn put_static(at: Out<*const c_char>, text: Option<*const c_char>) -> Answer {
    at.put(text.unwrap_or(null()))?;
    text.map(drop).ok_or(INVALID_VALUE)
}

/// The attribute of that number. Older drivers refuse what came later.
fn attribute_of(number: u32, version: i32) -> Answer<Attribute> {
    let since = match number {
        102 => 10_020,
        113 | 115 => 11_020,
        122 | 123 => 11_070,
        134 => 12_020,
        _ => 0,
    };
    if version < since {
        return Err(INVALID_VALUE);
    }
    Ok(match number {
        1 => Attribute::Always(1024),
        10 => Attribute::Always(32),
        13 => Attribute::ClockKhz,
        16 => Attribute::Multiprocessors,
        18 => Attribute::Integrated,
        19 | 41 | 78 => Attribute::Always(1),
        33 => Attribute::PciBus,
        34 => Attribute::PciDevice,
        40 => Attribute::AsyncEngines,
        50 => Attribute::PciDomain,
        75 => Attribute::ComputeMajor,
        76 => Attribute::ComputeMinor,
        91 => Attribute::SameHostPointer,
        // The numbers of the calls without and with `_v2`.
        92..=94 | 122 | 123 => Attribute::WaitValue,
        99 => Attribute::HostRegister,
        102 => Attribute::VirtualMemory,
        113 => Attribute::ReadOnlyRegister,
        115 => Attribute::Pools,
        134 => Attribute::HostNumaId,
        number if number <= 150 => Attribute::Always(0),
        _ => return Err(misuse("invalid_argument", format!("attribute {number}"), INVALID_VALUE)),
    })
}
