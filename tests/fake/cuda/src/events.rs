//! Events.

use riverbed_fake_core::Out;

use crate::exports;

exports! {
    fn cuEventCreate(event: Out<u64>, flags: u32) Context |fake|
        event.put(fake.create_event(flags)?);
    fn cuEventDestroy_v2(event: u64) Context |fake| fake.destroy_event(event);
    fn cuEventRecord(event: u64, stream: u64) Context |fake| fake.record_event(event, stream);
    fn cuEventQuery(event: u64) Context |fake| fake.query_event(event);
    fn cuEventSynchronize(event: u64) Context |fake| fake.synchronize_event(event);
    fn cuEventElapsedTime(ms: Out<f32>, start: u64, end: u64) Context |fake|
        ms.put(fake.elapsed(start, end)?);
    fn cuEventElapsedTime_v2(ms: Out<f32>, start: u64, end: u64) Context |fake|
        ms.put(fake.elapsed(start, end)?);
}
