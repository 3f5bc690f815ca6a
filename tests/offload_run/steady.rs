//! A pass that goes by its plan takes no memory and makes the host wait once.

use riverbed::device::Call;

use super::job::{calm, load, model, pass};
use super::streaming::{MIB, ends, host, stream, waits};

#[test]
fn steady_passes_ask_the_driver_for_nothing() {
    ends(|| {
        let content = model();
        let (device, _) = host(64);
        let offloaded = load(&device, &content, 18 * MIB, 2 * MIB);
        let stream = stream(&device);
        for _ in 0..2 {
            pass(&offloaded, &stream, &content);
        }
        calm(&offloaded, &stream, 2);
        let memory =
            [Call::Alloc, Call::Free, Call::CreatePage, Call::Map, Call::Unmap, Call::CreateEvent];
        let (before, waited) = (device.calls().sum(&memory), waits(&device));
        for _ in 0..3 {
            for unit in 0..offloaded.units().len() {
                drop(offloaded.acquire(unit, &stream).unwrap());
            }
            offloaded.finish_pass(&stream).unwrap().into_result().unwrap();
        }
        assert_eq!(device.calls().sum(&memory), before);
        assert_eq!(waits(&device) - waited, 3, "at the end of each pass");
    });
}
