//! A block from the cache of this crate's allocator, beside one from the driver's pool and one
//! from the driver itself.

use std::hint::black_box;

use super::{Meter, Series};
use crate::base::MIB;
use crate::device::{Call, PoolAttribute, Stream};
use crate::pool::Allocator;
use crate::selftest::finding::Finding;
use crate::selftest::lab::{Found, Lab};

/// The block asked for.
const BYTES: u64 = 2 * MIB;
const CACHED_PAIRS: u32 = 20_000;
const POOL_PAIRS: u32 = 256;
const CACHED: &str = "cached alloc/free pair, this crate's allocator";
const POOLED: &str = "alloc/free pair, driver's pool that keeps all";

pub(super) fn measure(lab: &Lab, meter: &mut Meter<'_>) -> Result<Option<&'static str>, Finding> {
    lab.gives_back_later();
    let mut series = meter.series("allocators");
    let stream = lab.stream()?;
    let allocator = Allocator::builder(lab.device()).build()?;
    let handle = allocator.on(&stream)?;
    drop(handle.block(BYTES)?);
    let mut costs = Costs::default();
    while series.goes_on(meter) {
        // The processor's own time, also where the device's is virtual.
        let begun = meter.real_ns();
        for _ in 0..CACHED_PAIRS {
            black_box(handle.block(black_box(BYTES))?);
        }
        let cached = (meter.real_ns() - begun) / f64::from(CACHED_PAIRS);
        series.add(CACHED, "ns", cached);
        plain(lab, meter, &mut series, &mut costs)?;
        if lab.info().memory_pools {
            pools(lab, meter, &mut series, &stream, &mut costs)?;
        }
    }
    meter.figures.cached_pair_ns = Some(series.median(CACHED));
    if lab.info().memory_pools {
        meter.figures.pool_pair_ns = Some(series.median(POOLED));
    }
    costs.conclude(meter);
    series.finish(meter);
    drop(handle);
    Ok(allocator.close().map(|()| None)?)
}

/// The driver's plain calls, at two sizes.
fn plain(lab: &Lab, meter: &Meter<'_>, series: &mut Series, costs: &mut Costs) -> Found {
    let large = (lab.free_bytes()? / 8 / MIB * MIB).clamp(BYTES, 64 * MIB);
    for bytes in [BYTES, large] {
        let begun = meter.now_ns();
        let ptr = lab.alloc(bytes)?;
        let taken = meter.now_ns();
        lab.free(ptr)?;
        let freed = meter.now_ns();
        costs.add(Call::Alloc, bytes, taken - begun);
        costs.add(Call::Free, bytes, freed - taken);
        let name = format!("alloc/free pair, driver, {} MiB", bytes / MIB);
        series.add(name, "ns", freed - begun);
    }
    Ok(())
}

fn pools(
    lab: &Lab,
    meter: &Meter<'_>,
    series: &mut Series,
    stream: &Stream,
    costs: &mut Costs,
) -> Found {
    let mut last = meter.now_ns();
    let pool = lab.pool(0)?;
    costs.since(Call::CreatePool, &mut last, meter);
    lab.pool_set(pool, PoolAttribute::ReleaseThreshold, u64::MAX)?;
    costs.since(Call::PoolSet, &mut last, meter);
    lab.pool_get(pool, PoolAttribute::ReleaseThreshold)?;
    costs.since(Call::PoolGet, &mut last, meter);
    lab.pool_pairs(pool, BYTES, stream, 1)?;
    let pair =
        meter.each_ns(POOL_PAIRS as usize, || lab.pool_pairs(pool, BYTES, stream, POOL_PAIRS))?;
    series.add(POOLED, "ns", pair);
    last = meter.now_ns();
    let ptr = lab.pool_alloc(pool, BYTES, stream)?;
    costs.since(Call::PoolAlloc, &mut last, meter);
    lab.pool_free(ptr, stream)?;
    costs.since(Call::PoolFree, &mut last, meter);
    lab.sync(stream)?;
    lab.pool_set(pool, PoolAttribute::ReleaseThreshold, 0)?;
    last = meter.now_ns();
    lab.pool_trim(pool, 0)?;
    costs.since(Call::PoolTrim, &mut last, meter);
    let pair = meter.each_ns(4, || {
        (0..4).try_for_each(|_| {
            lab.pool_pairs(pool, BYTES, stream, 1)?;
            lab.sync(stream)
        })
    })?;
    series.add("alloc/free pair and synchronize, pool that keeps nothing", "ns", pair);
    last = meter.now_ns();
    lab.destroy_pool(pool)?;
    costs.since(Call::DestroyPool, &mut last, meter);
    Ok(())
}

/// What calls cost: which, the bytes it was about, its nanoseconds.
#[derive(Default)]
struct Costs(Vec<(Call, u64, f64)>);

impl Costs {
    fn add(&mut self, call: Call, bytes: u64, ns: f64) {
        self.0.push((call, bytes, ns));
    }

    /// Adds what has gone by since `last`, and begins anew.
    fn since(&mut self, call: Call, last: &mut f64, meter: &Meter<'_>) {
        self.add(call, 0, meter.now_ns() - *last);
        *last = meter.now_ns();
    }

    /// Leaves the middle of each with the meter.
    fn conclude(mut self, meter: &mut Meter<'_>) {
        self.0.sort_by(|one, two| {
            let key = |cost: &(Call, u64, f64)| (cost.0.name(), cost.1);
            key(one).cmp(&key(two)).then(one.2.total_cmp(&two.2))
        });
        for same in self.0.chunk_by(|one, two| (one.0, one.1) == (two.0, two.1)) {
            if let Some(&(call, bytes, ns)) = same.get(same.len() / 2) {
                meter.figures.call(call, bytes, ns);
            }
        }
    }
}
