//! What pinning host memory costs, by the driver's own allocation and by registering memory
//! that was touched.

use super::Meter;
use crate::base::{GIB, MIB};
use crate::device::Call;
use crate::selftest::finding::Finding;
use crate::selftest::lab::{Found, HostPtr, Lab};

const CALLS: [Call; 4] = [Call::AllocPinned, Call::FreePinned, Call::Register, Call::Unregister];

pub(super) fn measure(lab: &Lab, meter: &mut Meter<'_>) -> Result<Option<&'static str>, Finding> {
    let largest = meter.either(256 * MIB, 16 * MIB) as usize;
    let (own, huge) = (lab.own(largest)?, lab.own_huge(largest)?);
    for bytes in [largest / 16, largest] {
        let mut series = meter.series("pinning");
        let mut raw = meter.series("pinning");
        while series.goes_on(meter) {
            let times = round(lab, meter, own, bytes)?;
            for (call, ns) in CALLS.into_iter().zip(times) {
                let name = format!("{}, {} MiB", call.name(), bytes as u64 / MIB);
                series.add(name, "ms/GiB", ns / 1e6 * (GIB as f64 / bytes as f64));
                raw.add(call.name(), "ns", ns);
            }
            let begun = meter.now_ns();
            lab.register(huge, bytes)?;
            let ns = meter.now_ns() - begun;
            lab.unregister(huge)?;
            let name = format!("register huge pages, {} MiB", bytes as u64 / MIB);
            series.add(name, "ms/GiB", ns / 1e6 * (GIB as f64 / bytes as f64));
        }
        for call in CALLS {
            meter.figures.call(call, bytes as u64, raw.median(call.name()));
        }
        series.finish(meter);
    }
    Ok(None)
}

fn round(lab: &Lab, meter: &Meter<'_>, own: HostPtr, bytes: usize) -> Found<[f64; 4]> {
    let begun = meter.now_ns();
    let pinned = lab.pinned(bytes)?;
    let taken = meter.now_ns();
    lab.free_pinned(pinned)?;
    let freed = meter.now_ns();
    lab.register(own, bytes)?;
    let registered = meter.now_ns();
    lab.unregister(own)?;
    let ended = meter.now_ns();
    Ok([taken - begun, freed - taken, registered - freed, ended - registered])
}
