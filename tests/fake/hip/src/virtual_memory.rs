//! Virtual memory.

use riverbed_fake_core::{AccessTo, Answer, In, Out};

use crate::exports;
use crate::structs::{Access, AllocationProperties};

exports! {
    fn hipMemGetAllocationGranularity(granularity: Out<usize>, properties: In<AllocationProperties>, option: u32) Init |fake| {
        let (kind, location) = properties.get()?.read(fake.version());
        granularity.put(fake.granularity(kind, location, option)?)
    };
    fn hipMemAddressReserve(pointer: Out<u64>, bytes: usize, alignment: usize, hint: u64, flags: u64) Init |fake| {
        let _ = hint;
        pointer.put(fake.reserve(bytes as u64, alignment as u64, flags)?)
    };
    fn hipMemAddressFree(pointer: u64, bytes: usize) Init |fake|
        fake.release_reservation(pointer, bytes as u64);
    fn hipMemCreate(handle: Out<u64>, bytes: usize, properties: In<AllocationProperties>, flags: u64) Init |fake| {
        let (kind, location) = properties.get()?.read(fake.version());
        handle.put(fake.create_page(bytes as u64, kind, location, flags)?)
    };
    fn hipMemRelease(handle: u64) Init |fake| fake.release_page(handle);
    fn hipMemMap(pointer: u64, bytes: usize, offset: usize, handle: u64, flags: u64) Init |fake|
        fake.map(pointer, bytes as u64, offset as u64, handle, flags);
    fn hipMemUnmap(pointer: u64, bytes: usize) Init |fake| fake.unmap(pointer, bytes as u64);
    fn hipMemSetAccess(pointer: u64, bytes: usize, access: In<Access>, count: usize) Init |fake|
        fake.set_access(pointer, bytes as u64, &accesses(access, count)?);
}

/// To whom access is given.
pub(crate) fn accesses(list: In<Access>, count: usize) -> Answer<Vec<AccessTo>> {
    Ok(list.list(count)?.into_iter().map(AccessTo::from).collect())
}
