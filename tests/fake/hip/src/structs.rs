//! The runtime's structures, with numbers where it has enumerations.

use std::ffi::c_void;

use riverbed_fake_core::AccessTo;

/// `hipHostFn_t`.
pub type HostFunction = Option<unsafe extern "C" fn(*mut c_void)>;
/// `hipStreamCallback_t`.
pub type Callback = Option<unsafe extern "C" fn(u64, u32, *mut c_void)>;

/// `hipMemLocation`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Location {
    pub kind: u32,
    pub id: i32,
}

/// `hipMemAllocationProp`. Its fields stand in another order before ROCm 5.3.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
pub struct AllocationProperties([u32; 8]);

impl AllocationProperties {
    /// The allocation type and the location.
    pub fn read(&self, version: i32) -> (u32, (u32, i32)) {
        let [kind, location] = if version < 50_300_000 { [4, 1] } else { [0, 2] };
        (self.0[kind], (self.0[location], self.0[location + 1] as i32))
    }
}

/// `hipMemAccessDesc`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Access {
    pub location: Location,
    pub flags: u32,
}

impl From<Access> for AccessTo {
    fn from(access: Access) -> Self {
        let Location { kind, id } = access.location;
        Self { location_type: kind, id, flags: access.flags }
    }
}

/// `hipMemPoolProps`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct PoolProperties {
    pub kind: u32,
    pub handle_types: u32,
    pub location: Location,
    pub security: u64,
    pub max_bytes: usize,
    pub reserved: [u8; 56],
}

/// `hipMemcpyAttributes`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct CopyAttributes {
    pub order: u32,
    pub src: Location,
    pub dst: Location,
    pub flags: u32,
}

/// `hipPointerAttribute_t`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct PointerAttributes {
    pub kind: u32,
    pub device: i32,
    pub device_address: u64,
    pub host_address: u64,
    pub is_managed: i32,
    pub flags: u32,
}

/// `hipDeviceProp_tR0600`, of which the fake fills in the names alone.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
pub struct DeviceProperties(pub [u8; 1472]);

/// `hipDeviceProp_t` as it was before ROCm 6.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
pub struct OldDeviceProperties(pub [u8; 792]);

const _: () = assert!(size_of::<AllocationProperties>() == 32);
const _: () = assert!(size_of::<Access>() == 12);
const _: () = assert!(size_of::<PoolProperties>() == 88);
const _: () = assert!(size_of::<CopyAttributes>() == 24);
const _: () = assert!(size_of::<PointerAttributes>() == 32);
