//! What a conf asks of a pool, and whether the device can do it.

use crate::base::{Error, Result, format_bytes};
use crate::conf::Conf;
use crate::device::Device;

/// The cap of the pool that `conf` asks for on `device`, in whole pages; 0 is none.
pub(super) fn max_bytes(device: &Device, conf: &Conf) -> Result<u64> {
    let info = device.info();
    let unsupported = |what: String, way_out: &str| {
        Err(Error::Unsupported { what, by: info.name.clone(), way_out: way_out.into() })
    };
    if !info.process_pool {
        return unsupported(
            "a process pool".into(),
            "'riverbed devices' says why: it takes stream-ordered pools of the driver (CUDA from \
             11.2 on; ROCm's are off unless the device is opened with pools=on)",
        );
    }
    let Some(limit_bytes) = conf.device_limit_bytes(info.total_bytes) else { return Ok(0) };
    if !info.pool_caps {
        let driver = device.driver_info();
        let version = driver.map_or_else(
            || "this one does not".into(),
            |driver| format!("this is {} {}", driver.vendor, driver.version),
        );
        return unsupported(
            format!("a limit of {} on the process pool", format_bytes(limit_bytes)),
            &format!(
                "drivers keep pools to a cap from CUDA 12.2 and ROCm 6.2 on, and {version}: \
                 update the driver, or leave limit_mb and per_process_memory_fraction out"
            ),
        );
    }
    let page_bytes = info.granularity_bytes;
    match limit_bytes / page_bytes * page_bytes {
        // The driver would take it for no cap at all.
        0 => Err(Error::Conf {
            key: limiting_key(conf, limit_bytes).into(),
            reason: format!(
                "limits the process pool to {limit_bytes} bytes; allowed: at least one page of \
                 the device, {}",
                format_bytes(page_bytes)
            ),
        }),
        max_bytes => Ok(max_bytes),
    }
}

/// The key that the limit comes from.
fn limiting_key(conf: &Conf, limit_bytes: u64) -> &'static str {
    if conf.limit_bytes == Some(limit_bytes) { "limit_mb" } else { "per_process_memory_fraction" }
}
