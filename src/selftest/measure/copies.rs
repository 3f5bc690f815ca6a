//! Copies by size and by the kind of host memory, both ways, and both at once.

use super::{Meter, Series};
use crate::base::{KIB, MIB, format_bytes};
use crate::device::{Call, DevicePtr, Stream};
use crate::selftest::finding::Finding;
use crate::selftest::lab::{Found, HostPtr, Lab};

const SIZES: [u64; 6] = [4 * KIB, 64 * KIB, MIB, 4 * MIB, 32 * MIB, 256 * MIB];
const QUICK_SIZES: [u64; 3] = [4 * KIB, MIB, 8 * MIB];
/// Work in front of what is timed, so that all of it is enqueued before it begins.
const LEAD_NS: u64 = 2_000_000;
/// Copied between two marks, where copies are small.
const BATCH_BYTES: u64 = 64 * MIB;
const MOST_AT_ONCE: u64 = 48;
/// A copy on an idle stream: long enough that its end is enqueued before it is reached.
const LONE_BYTES: u64 = 256 * KIB;
const LONE: &str = "h2d of 256 KiB on an idle stream";

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ToDevice,
    ToHost,
    OnDevice,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::ToDevice => "h2d",
            Self::ToHost => "d2h",
            Self::OnDevice => "d2d",
        }
    }
}

/// Both ends of copies.
struct Ends<'a> {
    lab: &'a Lab,
    device: DevicePtr,
    /// A second place on the device.
    other: DevicePtr,
    host: HostPtr,
}

impl Ends<'_> {
    fn copy(&self, way: Way, stream: &Stream, bytes: u64) -> Found {
        match way {
            Way::ToDevice => self.lab.h2d(stream, self.device, self.host, bytes),
            Way::ToHost => self.lab.d2h(stream, self.host, self.device, bytes),
            Way::OnDevice => self.lab.d2d(stream, self.other, self.device, bytes),
        }
    }

    /// 10^9 bytes a second of copies one after the other.
    fn rate(&self, way: Way, stream: &Stream, bytes: u64) -> Found<f64> {
        let count = (BATCH_BYTES / bytes).clamp(1, MOST_AT_ONCE);
        let (start, end) = (self.lab.timed_event()?, self.lab.timed_event()?);
        stream.busy(LEAD_NS)?;
        start.record(stream)?;
        for _ in 0..count {
            self.copy(way, stream, bytes)?;
        }
        end.record(stream)?;
        self.lab.sync(stream)?;
        Ok(rate(count * bytes, end.elapsed_ns_since(&start)?))
    }
}

fn rate(bytes: u64, ns: u64) -> f64 {
    bytes as f64 / ns.max(1) as f64
}

pub(super) fn measure(lab: &Lab, meter: &mut Meter<'_>) -> Result<Option<&'static str>, Finding> {
    let most = lab.free_bytes()? / 4;
    let sizes: &[u64] = meter.either(&SIZES, &QUICK_SIZES);
    let sizes: Vec<u64> = sizes.iter().copied().filter(|&bytes| bytes <= most).collect();
    let Some(&largest) = sizes.last().filter(|&&largest| largest >= LONE_BYTES) else {
        return Ok(Some("the device is too full"));
    };
    let stream = lab.stream()?;
    let (device, other) = (lab.alloc(largest)?, lab.alloc(largest)?);
    let pinned = lab.pinned(largest as usize)?;
    let registered = lab.registered(largest as usize)?;
    let huge = lab.own_huge(largest as usize)?;
    lab.register(huge, largest as usize)?;
    let kinds = [("pinned", pinned), ("registered", registered), ("registered huge pages", huge)];
    // Of the largest copies: smaller ones may stay in caches.
    let mut best = [0.0f64; 3];
    for (kind, host) in kinds {
        let ends = Ends { lab, device, other, host };
        for &bytes in &sizes {
            let mut series = meter.series("copies");
            let name = |way: Way| format!("{}, {kind}, {}", way.name(), format_bytes(bytes));
            while series.goes_on(meter) {
                for way in [Way::ToDevice, Way::ToHost] {
                    series.add(name(way), "GB/s", ends.rate(way, &stream, bytes)?);
                }
            }
            for way in [Way::ToDevice, Way::ToHost] {
                if bytes == largest {
                    best[way as usize] = best[way as usize].max(series.median(&name(way)));
                }
            }
            series.finish(meter);
        }
    }
    let ends = Ends { lab, device, other, host: pinned };
    let mut series = meter.series("copies");
    while series.goes_on(meter) {
        let d2d = ends.rate(Way::OnDevice, &stream, largest)?;
        series.add(format!("d2d, {}", format_bytes(largest)), "GB/s", d2d);
        both_ways(&ends, &stream, largest, &mut series)?;
        issue(&ends, meter, &stream, &mut series)?;
    }
    best[2] = series.median(&format!("d2d, {}", format_bytes(largest)));
    conclude(meter, &series, best);
    series.finish(meter);
    Ok(None)
}

/// Both directions at once, each on a stream of its own.
fn both_ways(ends: &Ends<'_>, stream: &Stream, bytes: u64, series: &mut Series) -> Found {
    let lab = ends.lab;
    let back = lab.stream()?;
    let half = bytes / 2;
    let (start, end) = (lab.timed_event()?, lab.timed_event()?);
    let back_end = lab.timed_event()?;
    stream.busy(LEAD_NS)?;
    start.record(stream)?;
    back.wait(&start)?;
    lab.h2d(stream, ends.device, ends.host, half)?;
    let (to, from) = (ends.host.offset(half as usize), ends.device.offset(half));
    lab.d2h(&back, to, from, half)?;
    end.record(stream)?;
    back_end.record(&back)?;
    lab.sync(stream)?;
    lab.sync(&back)?;
    let ns = end.elapsed_ns_since(&start)?.max(back_end.elapsed_ns_since(&start)?);
    series.add(format!("both ways, {} each", format_bytes(half)), "GB/s", rate(2 * half, ns));
    lab.drop_idle(back);
    Ok(())
}

/// What enqueueing a copy costs the host, and how long one takes to begin.
fn issue(ends: &Ends<'_>, meter: &Meter<'_>, stream: &Stream, series: &mut Series) -> Found {
    const COUNT: usize = 32;
    const BYTES: u64 = 4 * KIB;
    for way in [Way::ToDevice, Way::ToHost, Way::OnDevice] {
        let ns =
            meter.each_ns(COUNT, || (0..COUNT).try_for_each(|_| ends.copy(way, stream, BYTES)))?;
        ends.lab.sync(stream)?;
        series.add(format!("enqueueing {}", way.name()), "us", ns / 1e3);
    }
    let (start, end) = (ends.lab.timed_event()?, ends.lab.timed_event()?);
    start.record(stream)?;
    ends.copy(Way::ToDevice, stream, LONE_BYTES)?;
    end.record(stream)?;
    ends.lab.sync(stream)?;
    series.add(LONE, "us", end.elapsed_ns_since(&start)? as f64 / 1e3);
    Ok(())
}

fn conclude(meter: &mut Meter<'_>, series: &Series, best: [f64; 3]) {
    let figures = &mut meter.figures;
    figures.h2d_gb_per_s = Some(best[0]);
    figures.d2h_gb_per_s = Some(best[1]);
    // Each byte is read and written.
    figures.memory_gb_per_s = Some(2.0 * best[2]);
    for (call, way) in [
        (Call::CopyH2d, Way::ToDevice),
        (Call::CopyD2h, Way::ToHost),
        (Call::CopyD2d, Way::OnDevice),
    ] {
        figures.call(call, 0, series.median(&format!("enqueueing {}", way.name())) * 1e3);
    }
    let whole_ns = series.median(LONE) * 1e3;
    let issue_ns = series.median("enqueueing h2d") * 1e3;
    let copy_ns = if best[0] > 0.0 { LONE_BYTES as f64 / best[0] } else { 0.0 };
    figures.start_ns = Some((whole_ns - issue_ns - copy_ns).max(0.0));
}
