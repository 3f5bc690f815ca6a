//! The selftest on a device whose n-th call fails. Included by path
//! (`#[path = "support/faulty.rs"] mod faulty;`).

use std::time::{Duration, Instant};

use riverbed::device::{Call, Device};
use riverbed::selftest::{Check, Outcome, checks};

/// A status that no device gives by itself.
pub(crate) const INJECTED: u32 = 4242;
/// Far more than any step of a check takes here, and far less than a hanging test would.
const PATIENCE: Duration = Duration::from_secs(10);
/// A check with more calls than this has the later ones tried in strides, unless
/// `RIVERBED_EVERY_CALL` is set: the same calls come again and again in loops, and all of them
/// on a fake driver take half an hour.
const ALL_UP_TO: u64 = 24;

/// A device whose n-th call from now on can be made to fail once.
pub(crate) struct Faulty<'a> {
    pub(crate) device: Device,
    /// The n-th call from now on fails with this status, once.
    pub(crate) arm: &'a dyn Fn(u64, u32),
    /// Takes the failure back; true if it has not struck.
    pub(crate) disarm: &'a dyn Fn() -> bool,
    /// The name of the call that was made to fail, where it is known.
    pub(crate) struck: Option<&'a dyn Fn() -> Option<String>>,
}

/// Parts of names of driver functions that give something back when a handle is dropped, that
/// put a thread back as it was, or whose absence is made do with; and the first ones of a call that
/// the reaper's thread may be making meanwhile, which asks again. A failure of theirs may be passed
/// over any number of times.
const PASSED_OVER: [&str; 11] = [
    "Destroy",
    "Free",
    "Release",
    "Unload",
    "PopCurrent",
    "ThreadExchangeStreamCaptureMode",
    "GetErrorName",
    "MemGetInfo",
    "CtxGetCurrent",
    "hipGetDevice",
    "EventQuery",
];

impl Faulty<'_> {
    /// Fails each call of `check` in turn; gives how many failures it took in its stride, those
    /// of [`PASSED_OVER`] aside, and how many there were.
    pub(crate) fn run(&self, check: &Check) -> (u64, u64) {
        let before = self.device.memory().unwrap();
        let (mut absorbed, mut tries) = (0, 0);
        let mut nth = 1;
        loop {
            (self.arm)(nth, INJECTED);
            let outcome = check.run_with(&self.device, PATIENCE);
            let struck = !(self.disarm)();
            match outcome {
                Outcome::Skipped(_) => return (0, 0),
                Outcome::Passed if struck => {
                    let name = self.struck.and_then(|name| name());
                    let expected =
                        name.is_some_and(|name| PASSED_OVER.iter().any(|part| name.contains(part)));
                    absorbed += u64::from(!expected);
                }
                Outcome::Passed => return (absorbed, tries),
                Outcome::Failed(finding) => {
                    assert!(struck, "{check} fails by itself: {finding}");
                    assert!(!finding.text.contains("panicked"), "{check}, call {nth}: {finding}");
                    assert!(
                        finding.status == Some(INJECTED) || finding.call.is_none(),
                        "{check}, call {nth}: another call is blamed: {finding}"
                    );
                    let names = |call: &Call| finding.call == Some(call.name());
                    // Asking for figures is no call that is counted, but one of the driver.
                    let called = Call::ALL.iter().any(names) || finding.call == Some("memory");
                    let named = called && finding.text.contains("4242");
                    let by_threads = finding.text.contains("ran before their threads");
                    // What the driver does not take back is missing under the limit; the error
                    // tells of the failure, if it was met on the way to it.
                    let kept = finding.text.contains("out of memory")
                        && (finding.text.contains("4242")
                            || self.struck.and_then(|name| name()).is_none_or(|name| {
                                ["Free", "Unmap", "Release", "Sync"]
                                    .iter()
                                    .any(|part| name.contains(part))
                            }));
                    assert!(named || by_threads || kept, "{check}, call {nth}: {finding:?}");
                }
            }
            self.wait_for(before.free_bytes, &format!("{check} leaks when call {nth} fails"));
            tries += 1;
            let every = std::env::var_os("RIVERBED_EVERY_CALL").is_some();
            nth += if every || nth <= ALL_UP_TO { 1 } else { nth / 2 };
        }
    }

    /// Waits for memory that is given back in the background.
    fn wait_for(&self, free_bytes: u64, otherwise: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.device.memory().unwrap().free_bytes < free_bytes {
            assert!(Instant::now() < deadline, "{otherwise}");
            std::thread::yield_now();
        }
    }

    /// Fails each call of each check in turn.
    pub(crate) fn run_all(&self) {
        // What is given up by a handle's `Drop` has nobody to report to, and what a free cannot
        // mark is marked later.
        const HANDLES: u64 = 40;
        for check in checks() {
            let (absorbed, tries) = self.run(&check);
            // A check of what must fail is content with any failure there.
            let most = HANDLES.max(tries / 2);
            assert!(absorbed <= most, "{check} passes over {absorbed} of {tries} failing calls");
            println!("{check}: {tries} failing calls, {absorbed} passed over");
        }
    }
}
