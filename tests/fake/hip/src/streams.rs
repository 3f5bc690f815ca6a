//! Streams, events, captures, host functions and values in memory.

use riverbed_fake_core::status::{CAPTURE_INVALIDATED, CAPTURE_UNJOINED, INVALID_VALUE};
use riverbed_fake_core::{Comparison, InOut, Out, Untyped, misuse};

use crate::exports;
use crate::structs::{Callback, HostFunction};

exports! {
    fn hipStreamCreateWithPriority(stream: Out<u64>, flags: u32, priority: i32) Context |fake|
        stream.put(fake.create_stream(flags, priority)?);
    fn hipStreamCreateWithFlags(stream: Out<u64>, flags: u32) Context |fake|
        stream.put(fake.create_stream(flags, 0)?);
    fn hipStreamDestroy(stream: u64) Context |fake| fake.destroy_stream(stream);
    fn hipStreamSynchronize(stream: u64) Context |fake| fake.synchronize_stream(stream);
    fn hipStreamQuery(stream: u64) Context |fake| fake.query_stream(stream);
    fn hipStreamWaitEvent(stream: u64, event: u64, flags: u32) Context |fake|
        fake.wait_event(stream, event, flags);
    fn hipStreamIsCapturing(stream: u64, status: Out<u32>) Context |fake|
        status.put(fake.capture_status(stream)?);
    fn hipStreamBeginCapture(stream: u64, mode: u32) Context |fake|
        fake.begin_capture(stream, mode);
    fn hipStreamEndCapture(stream: u64, graph: Out<u64>) Context |fake| match fake.end_capture(stream) {
        Ok(made) => graph.put(made),
        Err(status @ (CAPTURE_INVALIDATED | CAPTURE_UNJOINED)) => {
            graph.put(0)?;
            Err(status)
        }
        Err(status) => Err(status),
    };
    fn hipGraphDestroy(graph: u64) Init |fake| fake.destroy_graph(graph);
    fn hipThreadExchangeStreamCaptureMode(mode: InOut<u32>) Init |fake|
        mode.exchange(|mode| fake.exchange_capture_mode(mode));
    fn hipLaunchHostFunc(stream: u64, function: HostFunction, data: Untyped) Context |fake| {
        let Some(function) = function else {
            return Err(misuse("invalid_argument", "no function", INVALID_VALUE));
        };
        let data = data.number();
        // SAFETY: the caller promises that the function may be called with its data, once,
        // from any thread.
        fake.launch_host(stream, move || unsafe { function(data as *mut _) })
    };
    fn hipStreamAddCallback(stream: u64, callback: Callback, data: Untyped, flags: u32) Context |fake| {
        let Some(callback) = callback.filter(|_| flags == 0) else {
            return Err(misuse("invalid_argument", "no callback, or flags", INVALID_VALUE));
        };
        let data = data.number();
        // SAFETY: as for a host function.
        fake.launch_host(stream, move || unsafe { callback(stream, 0, data as *mut _) })
    };
    fn hipStreamWaitValue32(stream: u64, address: u64, value: u32, flags: u32, mask: u32) Context |fake|
        fake.wait_value(stream, (address, 32), value.into(), mask.into(), Comparison::of(flags)?);
    fn hipStreamWaitValue64(stream: u64, address: u64, value: u64, flags: u32, mask: u64) Context |fake|
        fake.wait_value(stream, (address, 64), value, mask, Comparison::of(flags)?);
    fn hipStreamWriteValue32(stream: u64, address: u64, value: u32, flags: u32) Context |fake|
        fake.write_value(stream, (address, 32), value.into(), flags);
    fn hipStreamWriteValue64(stream: u64, address: u64, value: u64, flags: u32) Context |fake|
        fake.write_value(stream, (address, 64), value, flags);
    fn hipEventCreateWithFlags(event: Out<u64>, flags: u32) Context |fake|
        event.put(fake.create_event(flags)?);
    fn hipEventDestroy(event: u64) Context |fake| fake.destroy_event(event);
    fn hipEventRecord(event: u64, stream: u64) Context |fake| fake.record_event(event, stream);
    fn hipEventQuery(event: u64) Context |fake| fake.query_event(event);
    fn hipEventSynchronize(event: u64) Context |fake| fake.synchronize_event(event);
    fn hipEventElapsedTime(ms: Out<f32>, start: u64, end: u64) Context |fake|
        ms.put(fake.elapsed(start, end)?);
}
