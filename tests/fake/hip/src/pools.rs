//! Stream-ordered pools.

use riverbed_fake_core::status::INVALID_VALUE;
use riverbed_fake_core::{Fake, In, Out, Untyped, misuse};

use crate::exports;
use crate::structs::{Access, PoolProperties};
use crate::virtual_memory::accesses;

exports! {
    fn hipMemPoolCreate(pool: Out<u64>, properties: In<PoolProperties>) Init |fake| {
        let properties = properties.get()?;
        if properties.handle_types != 0 || properties.reserved.iter().any(|&byte| byte != 0) {
            let words = "a handle type, or reserved bytes that are not 0";
            return Err(misuse("invalid_argument", words, INVALID_VALUE));
        }
        let location = (properties.location.kind, properties.location.id);
        pool.put(fake.create_pool(properties.kind, location, properties.max_bytes as u64)?)
    };
    fn hipMemPoolDestroy(pool: u64) Init |fake| fake.destroy_pool(pool);
    fn hipMemPoolSetAttribute(pool: u64, attribute: u32, value: Untyped) Init |fake| {
        let (attribute, is_int) = Fake::pool_attribute(attribute)?;
        let value = if is_int { value.get::<u32>()?.into() } else { value.get::<u64>()? };
        fake.set_pool(pool, attribute, value)
    };
    fn hipMemPoolGetAttribute(pool: u64, attribute: u32, value: Untyped) Init |fake| {
        let (attribute, is_int) = Fake::pool_attribute(attribute)?;
        let there = fake.get_pool(pool, attribute)?;
        if is_int { value.put(there as u32) } else { value.put(there) }
    };
    fn hipMemPoolSetAccess(pool: u64, access: In<Access>, count: usize) Init |fake|
        fake.set_pool_access(pool, &accesses(access, count)?);
    fn hipMemPoolTrimTo(pool: u64, keep: usize) Init |fake| fake.trim_pool(pool, keep as u64);
    fn hipMallocFromPoolAsync(pointer: Out<u64>, bytes: usize, pool: u64, stream: u64) Context |fake| {
        if pool == 0 {
            return Err(misuse("unknown_handle", "no pool", INVALID_VALUE));
        }
        pointer.put(fake.pool_alloc(pool, bytes as u64, stream)?)
    };
    fn hipMallocAsync(pointer: Out<u64>, bytes: usize, stream: u64) Context |fake|
        pointer.put(fake.pool_alloc(0, bytes as u64, stream)?);
    fn hipFreeAsync(pointer: u64, stream: u64) Context |fake| fake.pool_free(pointer, stream);
    fn hipDeviceGetDefaultMemPool(pool: Out<u64>, dev: i32) Init |fake|
        pool.put(fake.default_pool(fake.gpu(dev)?)?);
    fn hipDeviceGetMemPool(pool: Out<u64>, dev: i32) Init |fake|
        pool.put(fake.current_pool(fake.gpu(dev)?)?);
    fn hipDeviceSetMemPool(dev: i32, pool: u64) Init |fake|
        fake.set_current_pool(fake.gpu(dev)?, pool);
}
