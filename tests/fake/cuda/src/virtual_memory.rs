//! Virtual memory. None of it needs a context.

use riverbed_fake_core::{AccessTo, In, Out};

use crate::exports;
use crate::structs::{Access, AllocationProperties, Location};

exports! {
    fn cuMemGetAllocationGranularity(granularity: Out<usize>, properties: In<AllocationProperties>, option: u32) Init |fake| {
        let properties = properties.get()?;
        granularity.put(fake.granularity(properties.kind, place(properties.location), option)?)
    };
    fn cuMemAddressReserve(pointer: Out<u64>, bytes: usize, alignment: usize, hint: u64, flags: u64) Init |fake| {
        let _ = hint;
        pointer.put(fake.reserve(bytes as u64, alignment as u64, flags)?)
    };
    fn cuMemAddressFree(pointer: u64, bytes: usize) Init |fake|
        fake.release_reservation(pointer, bytes as u64);
    fn cuMemCreate(handle: Out<u64>, bytes: usize, properties: In<AllocationProperties>, flags: u64) Init |fake| {
        let properties = properties.get()?;
        let location = place(properties.location);
        handle.put(fake.create_page(bytes as u64, properties.kind, location, flags)?)
    };
    fn cuMemRelease(handle: u64) Init |fake| fake.release_page(handle);
    fn cuMemMap(pointer: u64, bytes: usize, offset: usize, handle: u64, flags: u64) Init |fake|
        fake.map(pointer, bytes as u64, offset as u64, handle, flags);
    fn cuMemUnmap(pointer: u64, bytes: usize) Init |fake| fake.unmap(pointer, bytes as u64);
    fn cuMemSetAccess(pointer: u64, bytes: usize, access: In<Access>, count: usize) Init |fake|
        fake.set_access(pointer, bytes as u64, &accesses(access, count)?);
}

fn place(location: Location) -> (u32, i32) {
    (location.kind, location.id)
}

/// To whom access is given.
pub(crate) fn accesses(
    list: In<Access>,
    count: usize,
) -> riverbed_fake_core::Answer<Vec<AccessTo>> {
    let list = list.list(count)?;
    let access = |access: Access| AccessTo {
        location_type: access.location.kind,
        id: access.location.id,
        flags: access.flags,
    };
    Ok(list.into_iter().map(access).collect())
}
