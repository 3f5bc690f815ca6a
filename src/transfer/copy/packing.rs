//! How the parts of a copy from pinned memory travel: by calls of their own, many in one call, or
//! gathered. The one place where that is decided.
//!
//! A call costs the host microseconds however little it copies, so small parts have to share
//! calls. Where the driver has a call for many copies, that is it. Elsewhere parts that come to lie
//! side by side on the device are gathered by the processor into a pinned slot, which is one copy.

use super::calibrate::LinkProfile;
use super::options::{Driven, TransferOptions, may_hold_back};
use super::span::{Span, Spans};
use super::way::Way;
use crate::base::KIB;
use crate::device::Device;

/// Parts below this share one call, where the driver has such a call: what a fast link (55 GB/s)
/// carries while the host makes a call (2.3 microseconds), so that calls of their own would leave
/// the link idle.
pub(super) const BATCH_BELOW_BYTES: u64 = 128 * KIB;

/// Parts up to this are gathered, while nothing was measured: 30 GB/s of four threads for the
/// time of a call.
pub(super) const GATHER_UPTO_BYTES: u64 = 64 * KIB;
/// Whatever is measured, from a page ...
const LEAST_GATHERED_BYTES: u64 = 4 * KIB;
/// ... to where the link is the limit anyway.
const MOST_GATHERED_BYTES: u64 = BATCH_BELOW_BYTES;

/// Gathering has to save as many calls: waking its thread takes as long as a dozen of them.
const LEAST_SAVED_CALLS: usize = 16;

/// Whether the driver makes many copies in one call.
pub(super) fn takes_batches(device: &Device) -> bool {
    device.driver_info().is_none_or(|driver| driver.batch_copies)
}

/// Whether parts are gathered at all: not where one call takes many, nor where the caller drives
/// and wants no thread, nor where gates hold up other work of the device.
pub(super) fn gathers(device: &Device, way: Way, options: &TransferOptions) -> bool {
    way == Way::ToDevice
        && options.driven == Driven::ByThreads
        && may_hold_back(device)
        && !takes_batches(device)
}

/// Up to which size gathering a part takes the processor no longer than a call of its own, by
/// what a calibration found.
pub(super) fn gather_upto(link: &LinkProfile) -> u64 {
    let Some(staging) = link.staging_bytes_per_second else { return GATHER_UPTO_BYTES };
    let bytes = u128::from(staging) * u128::from(link.per_copy_overhead_ns) / 1_000_000_000;
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    bytes.clamp(LEAST_GATHERED_BYTES, MOST_GATHERED_BYTES)
}

/// A copy part of which goes through slots.
#[derive(Debug)]
pub(super) struct Packed {
    /// Small or not pinned, in the order in which they lie on the device.
    pub(super) gathered: Spans,
    /// Pinned, and large or with no small neighbour on the device.
    pub(super) direct: Spans,
}

impl Packed {
    /// All of a copy from memory that is not pinned, in the order of the device.
    pub(super) fn whole(mut spans: Vec<Span>) -> Self {
        spans.sort_unstable_by_key(|span| span.device);
        Self { gathered: Spans::apart(spans), direct: Spans::apart(Vec::new()) }
    }
}

/// Takes a copy apart: those of up to `upto_bytes` that lie side by side on the device, and the
/// rest. Gives the parts back where that saves too few calls.
pub(super) fn pack(spans: Vec<Span>, upto_bytes: u64) -> Result<Packed, Vec<Span>> {
    if upto_bytes == 0 || spans.len() <= LEAST_SAVED_CALLS {
        return Err(spans);
    }
    let is_small = |span: &Span| span.bytes <= upto_bytes;
    let (mut small, mut direct): (Vec<_>, Vec<_>) = spans.iter().copied().partition(is_small);
    small.sort_unstable_by_key(|span| span.device);
    let mut gathered = Vec::with_capacity(small.len());
    let mut runs = 0;
    for run in small.chunk_by(|one, next| one.device.checked_add(one.bytes) == Some(next.device)) {
        if let [alone] = run {
            direct.push(*alone);
        } else {
            gathered.extend_from_slice(run);
            runs += 1;
        }
    }
    if gathered.len() < runs + LEAST_SAVED_CALLS {
        return Err(spans);
    }
    Ok(Packed { gathered: Spans::apart(gathered), direct: Spans::apart(direct) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(packed: &Packed) -> [u64; 2] {
        [packed.gathered.left_bytes(), packed.direct.left_bytes()]
    }

    #[test]
    fn small_parts_side_by_side_on_the_device_are_gathered_and_others_are_not() {
        let mut spans = vec![];
        for number in (0..20).rev() {
            spans.push(Span { host: number * 1000, device: number * 100, bytes: 100 });
        }
        spans.push(Span { host: 50_000, device: 2000, bytes: 101 });
        spans.push(Span { host: 60_000, device: 5000, bytes: 1 });
        let packed = pack(spans.clone(), 100).unwrap();
        assert_eq!(bytes_of(&packed), [2000, 102]);
        // Too few calls are saved, or none.
        assert_eq!(pack(spans[5..].to_vec(), 100).unwrap_err(), spans[5..]);
        let scattered: Vec<_> =
            spans.iter().map(|span| Span { device: span.device * 2, ..*span }).collect();
        assert_eq!(pack(scattered.clone(), 100).unwrap_err(), scattered);
    }

    #[test]
    fn what_was_measured_moves_the_limit_within_bounds() {
        let device = crate::device::Device::open("sim:h100").unwrap();
        let mut link =
            super::super::calibrate(&device, std::time::Duration::from_millis(1)).unwrap();
        assert_eq!(gather_upto(&link), GATHER_UPTO_BYTES);
        link.per_copy_overhead_ns = 2000;
        let mut at = |gb_per_s: u64| {
            link.staging_bytes_per_second = Some(gb_per_s * 1_000_000_000);
            gather_upto(&link)
        };
        assert_eq!([at(0), at(8), at(1000)], [4 << 10, 16_000, 128 << 10]);
    }
}
