//! How tests talk to a fake: settings in, a report out.

use std::ffi::c_int;
use std::sync::{Mutex, OnceLock};

use crate::Vendor;
use crate::fake::{Fake, lock};
use crate::faults::Faults;
use crate::settings::Settings;

static FAKE: OnceLock<Fake> = OnceLock::new();
/// What was set before the first call.
static EARLY: Mutex<Vec<String>> = Mutex::new(Vec::new());

unsafe extern "C" {
    fn atexit(function: extern "C" fn()) -> c_int;
}

/// The fake of this copy of the library, made when first asked for.
pub fn fake(vendor: Vendor) -> &'static Fake {
    FAKE.get_or_init(|| {
        let mut settings = Settings::new(vendor);
        let mut faults = Faults::default();
        let mut list = vec![std::env::var("RIVERBED_FAKE").unwrap_or_default()];
        list.append(&mut lock(&EARLY));
        for item in list.iter().flat_map(|list| list.split(',')).filter(|item| !item.is_empty()) {
            let (key, value) = item.split_once('=').unwrap_or((item, ""));
            let taken = settings.take(key, value) || faults.take(key, value);
            assert!(taken, "no setting of a fake: {item}");
        }
        let reports = settings.report.is_some();
        let fake = Fake::new(vendor, settings);
        *fake.faults() = faults;
        if reports {
            // SAFETY: the function is of this library, which is never unloaded before the end.
            unsafe { atexit(write_report) };
        }
        fake
    })
}

extern "C" fn write_report() {
    if let Some(fake) = FAKE.get()
        && let Some(path) = &fake.settings.report
    {
        // Nobody is left to tell of a failure; a missing report fails the test that wants it.
        let _ = std::fs::write(path, report(fake));
    }
}

/// Takes `key=value` settings, separated by commas. False when one is unknown or comes too late.
pub fn set(vendor: Vendor, list: &str) -> bool {
    let items = || list.split(',').map(|item| item.split_once('=').unwrap_or((item, "")));
    if let Some(fake) = FAKE.get() {
        return items().all(|(key, value)| fake.faults().take(key, value));
    }
    let known = items().all(|(key, value)| {
        Settings::new(vendor).take(key, value) || Faults::default().take(key, value)
    });
    if known {
        lock(&EARLY).push(list.into());
    }
    known
}

/// The report, as JSON.
pub fn report(fake: &Fake) -> String {
    let leaks = fake.leaks();
    fake.log().report(&leaks).to_string()
}
