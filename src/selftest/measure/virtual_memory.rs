//! Address space, pages and mappings, by size.

use super::{Meter, Series};
use crate::base::MIB;
use crate::device::Call;
use crate::selftest::finding::Finding;
use crate::selftest::lab::{Found, Lab};

const SIZES: [u64; 3] = [2 * MIB, 32 * MIB, 512 * MIB];
const QUICK_SIZES: [u64; 2] = [2 * MIB, 8 * MIB];
const CALLS: [Call; 6] = [
    Call::Reserve,
    Call::CreatePage,
    Call::SetAccess,
    Call::Unmap,
    Call::DestroyPage,
    Call::Release,
];

pub(super) fn measure(lab: &Lab, meter: &mut Meter<'_>) -> Result<Option<&'static str>, Finding> {
    if !lab.info().virtual_memory {
        return Ok(Some("the device has no virtual memory"));
    }
    let most = lab.free_bytes()? / 4;
    let sizes: &[u64] = meter.either(&SIZES, &QUICK_SIZES);
    let fits = |bytes: &u64| *bytes <= most && bytes.is_multiple_of(lab.page_bytes());
    for bytes in sizes.iter().copied().filter(fits) {
        let mut series = meter.series("virtual memory");
        while series.goes_on(meter) {
            round(lab, meter, &mut series, bytes)?;
        }
        for call in CALLS {
            meter.figures.call(call, bytes, series.median(&name(call, bytes)) * 1e3);
        }
        series.finish(meter);
    }
    // Its time is in that of `set_access`.
    meter.figures.call(Call::Map, 0, 0.0);
    Ok(None)
}

fn name(call: Call, bytes: u64) -> String {
    let name = if call == Call::SetAccess { "map and set_access" } else { call.name() };
    format!("{name}, {} MiB", bytes / MIB)
}

fn round(lab: &Lab, meter: &Meter<'_>, series: &mut Series, bytes: u64) -> Found {
    let pages = bytes / lab.page_bytes();
    let mut last = meter.now_ns();
    let mut note = |call: Call| {
        let now = meter.now_ns();
        series.add(name(call, bytes), "us", (now - last) / 1e3);
        last = meter.now_ns();
    };
    let space = lab.reserve(pages)?;
    note(Call::Reserve);
    let page = lab.create_page(pages)?;
    note(Call::CreatePage);
    lab.map(space, &[page])?;
    note(Call::SetAccess);
    lab.unmap(space, pages)?;
    note(Call::Unmap);
    lab.destroy_page(page)?;
    note(Call::DestroyPage);
    lab.release(space)?;
    note(Call::Release);
    Ok(())
}
