//! Whether copies hide behind compute.

use super::Meter;
use crate::base::MIB;
use crate::selftest::finding::Finding;
use crate::selftest::lab::Lab;

/// Work in front, so that both sides are enqueued before they begin.
const LEAD_NS: u64 = 2_000_000;
const COPIES: u64 = 8;

pub(super) fn measure(lab: &Lab, meter: &mut Meter<'_>) -> Result<Option<&'static str>, Finding> {
    let bytes = meter.either(16 * MIB, 4 * MIB).min(lab.free_bytes()? / 4 / MIB * MIB);
    if bytes == 0 {
        return Ok(Some("the device is too full"));
    }
    let (memory, host) = (lab.alloc(bytes)?, lab.pinned(bytes as usize)?);
    let (copying, computing) = (lab.stream()?, lab.stream()?);
    let (start, copied) = (lab.timed_event()?, lab.timed_event()?);
    let computed = lab.timed_event()?;
    let mut series = meter.series("overlap");
    while series.goes_on(meter) {
        let mut copy_ns = 0;
        for beside in [false, true] {
            copying.busy(LEAD_NS)?;
            start.record(&copying)?;
            computing.wait(&start)?;
            if beside {
                computing.busy(copy_ns)?;
            }
            for _ in 0..COPIES {
                lab.h2d(&copying, memory, host, bytes)?;
            }
            copied.record(&copying)?;
            computed.record(&computing)?;
            lab.sync(&copying)?;
            lab.sync(&computing)?;
            let last = copied.elapsed_ns_since(&start)?.max(computed.elapsed_ns_since(&start)?);
            if beside {
                let ratio = last as f64 / copy_ns.max(1) as f64;
                series.add("copies beside as much compute, of either alone", "x", ratio);
            }
            copy_ns = last;
        }
    }
    series.finish(meter);
    Ok(None)
}
