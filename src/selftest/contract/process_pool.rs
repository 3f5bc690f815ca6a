//! The process's pool: the one that everybody draws from who names none.

use crate::base::DeviceError;
use crate::device::PoolAttribute::UsedCurrent;
use crate::selftest::check::checks;
use crate::selftest::finding::{ensure, refused};
use crate::selftest::lab::{Found, Lab};

checks! { "process_pool":
    the_pool_that_is_set_is_current_until_it_is_given_up [ProcessPool],
    a_current_pool_keeps_to_its_cap [ProcessPool, PoolCaps],
}

fn the_pool_that_is_set_is_current_until_it_is_given_up(lab: &Lab) -> Found {
    let default = lab.default_pool()?;
    let again = lab.default_pool()?;
    ensure!(again == default, "the default pool was {default:?}, then {again:?}");
    if is_anothers(lab)? {
        return Ok(());
    }
    let pool = lab.pool(0)?;
    ensure!(pool != default, "a new pool is the default one");
    ensure!(lab.current_pool()? == default, "a new pool is current without being set");
    for (set, words) in [(pool, "the one that was set"), (default, "the default one again")] {
        lab.set_current_pool(set)?;
        let current = lab.current_pool()?;
        ensure!(current == set, "{current:?} is current, and not {words}, {set:?}");
        let there = lab.default_pool()?;
        ensure!(there == default, "the default pool was {default:?}, and is {there:?}");
    }
    lab.set_current_pool(pool)?;
    lab.destroy_pool(pool)?;
    let current = lab.current_pool()?;
    ensure!(current == default, "{current:?} is current, not the default pool {default:?}");
    Ok(())
}

fn a_current_pool_keeps_to_its_cap(lab: &Lab) -> Found {
    if is_anothers(lab)? {
        return Ok(());
    }
    let default = lab.default_pool()?;
    let page = lab.page_bytes();
    // Real pools grow by tens of MiB; those of small devices by pages.
    let cap = if lab.info().total_bytes >= 1 << 30 { 64 << 20 } else { 4 * page };
    let pool = lab.pool(cap)?;
    lab.set_current_pool(pool)?;
    let stream = lab.stream()?;
    let current = lab.current_pool()?;
    let taken = lab.pool_alloc(current, page, &stream)?;
    let used = lab.pool_get(pool, UsedCurrent)?;
    ensure!(used >= page, "{used} bytes are used of the current pool, and {page} were taken");
    let much = lab.pool_alloc(current, cap, &stream);
    refused(much, DeviceError::OUT_OF_MEMORY, "more than the cap")?;
    lab.set_current_pool(default)?;
    lab.pool_free(taken, &stream)?;
    lab.sync(&stream)
}

/// Whether somebody else in this process has set a pool, which is left alone.
fn is_anothers(lab: &Lab) -> Found<bool> {
    Ok(lab.current_pool()? != lab.default_pool()?)
}
