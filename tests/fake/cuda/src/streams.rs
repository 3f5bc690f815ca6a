//! Streams, captures, host functions and values in memory.

use riverbed_fake_core::status::{CAPTURE_INVALIDATED, CAPTURE_UNJOINED, INVALID_VALUE};
use riverbed_fake_core::{Comparison, InOut, Out, Untyped, misuse};

use crate::exports;
use crate::structs::HostFunction;

exports! {
    fn cuStreamCreate(stream: Out<u64>, flags: u32) Context |fake|
        stream.put(fake.create_stream(flags, 0)?);
    fn cuStreamCreateWithPriority(stream: Out<u64>, flags: u32, priority: i32) Context |fake|
        stream.put(fake.create_stream(flags, priority)?);
    fn cuStreamDestroy_v2(stream: u64) Context |fake| fake.destroy_stream(stream);
    fn cuStreamSynchronize(stream: u64) Context |fake| fake.synchronize_stream(stream);
    fn cuStreamQuery(stream: u64) Context |fake| fake.query_stream(stream);
    fn cuStreamWaitEvent(stream: u64, event: u64, flags: u32) Context |fake|
        fake.wait_event(stream, event, flags);
    fn cuStreamIsCapturing(stream: u64, status: Out<u32>) Context |fake|
        status.put(fake.capture_status(stream)?);
    fn cuStreamBeginCapture_v2(stream: u64, mode: u32) Context |fake|
        fake.begin_capture(stream, mode);
    fn cuStreamEndCapture(stream: u64, graph: Out<u64>) Context |fake| match fake.end_capture(stream) {
        Ok(made) => graph.put(made),
        Err(status @ (CAPTURE_INVALIDATED | CAPTURE_UNJOINED)) => {
            graph.put(0)?;
            Err(status)
        }
        Err(status) => Err(status),
    };
    fn cuGraphDestroy(graph: u64) Init |fake| fake.destroy_graph(graph);
    fn cuThreadExchangeStreamCaptureMode(mode: InOut<u32>) Init |fake|
        mode.exchange(|mode| fake.exchange_capture_mode(mode));
    fn cuLaunchHostFunc(stream: u64, function: HostFunction, data: Untyped) Context |fake| {
        let Some(function) = function else {
            return Err(misuse("invalid_argument", "no function", INVALID_VALUE));
        };
        let data = data.number();
        // SAFETY: the caller promises that the function may be called with its data, once,
        // from any thread.
        fake.launch_host(stream, move || unsafe { function(data as *mut _) })
    };
    fn cuStreamWaitValue32_v2(stream: u64, address: u64, value: u32, flags: u32) Context |fake|
        fake.wait_value(stream, (address, 32), value.into(), u64::MAX, Comparison::of(flags)?);
    fn cuStreamWaitValue64_v2(stream: u64, address: u64, value: u64, flags: u32) Context |fake|
        fake.wait_value(stream, (address, 64), value, u64::MAX, Comparison::of(flags)?);
    fn cuStreamWriteValue32_v2(stream: u64, address: u64, value: u32, flags: u32) Context |fake|
        fake.write_value(stream, (address, 32), value.into(), flags);
    fn cuStreamWriteValue64_v2(stream: u64, address: u64, value: u64, flags: u32) Context |fake|
        fake.write_value(stream, (address, 64), value, flags);
}
