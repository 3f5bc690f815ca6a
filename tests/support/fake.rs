//! Fake driver libraries for tests (`tests/fake`): a copy each, so that every test has a driver
//! of its own, with controls and a report of what was done wrong.
// Each test crate compiles this file for itself and uses a part of it.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fmt;
use std::fs;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libloading::Library;
use tempfile::TempDir;

/// Which driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vendor {
    Cuda,
    Hip,
}

impl Vendor {
    /// The file cargo builds, next to the test's executable; the name the loader looks for.
    fn files(self) -> [&'static str; 2] {
        match self {
            Self::Cuda => ["libriverbed_fake_cuda.so", "libcuda.so.1"],
            Self::Hip => ["libriverbed_fake_hip.so", "libamdhip64.so.6"],
        }
    }
}

/// A fake driver library. Settings are listed in `tests/fake/core/src/settings.rs`.
pub(crate) struct FakeDriver {
    pub(crate) vendor: Vendor,
    path: PathBuf,
    /// Stays loaded: its threads may still run.
    library: ManuallyDrop<Library>,
    /// Removed with the fake.
    _dir: TempDir,
}

/// What a fake has written down.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Report {
    /// How often each call was made.
    pub(crate) calls: BTreeMap<String, u64>,
    pub(crate) calls_total: u64,
    pub(crate) last_failed: Option<Failed>,
    pub(crate) misuses: Vec<Misuse>,
    /// What was never given back, by kind.
    pub(crate) leaks: BTreeMap<String, u64>,
}

/// The last call that failed.
#[derive(Debug, PartialEq, Eq, serde::Deserialize)]
pub(crate) struct Failed {
    pub(crate) call: String,
    pub(crate) status: u32,
}

/// A call that was made wrongly.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Misuse {
    pub(crate) call: String,
    pub(crate) kind: String,
    pub(crate) detail: String,
}

/// A fake CUDA driver with these settings ("" for the defaults).
pub(crate) fn fake_cuda(settings: &str) -> FakeDriver {
    FakeDriver::new(Vendor::Cuda, settings, &[])
}

/// A fake HIP runtime with these settings ("" for the defaults).
pub(crate) fn fake_hip(settings: &str) -> FakeDriver {
    FakeDriver::new(Vendor::Hip, settings, &[])
}

impl FakeDriver {
    /// A fake that lacks some symbols.
    pub(crate) fn new(vendor: Vendor, settings: &str, without: &[&str]) -> Self {
        let [built, name] = vendor.files();
        let built = std::env::current_exe().unwrap().with_file_name(built);
        let mut image =
            fs::read(&built).unwrap_or_else(|error| panic!("{}: {error}", built.display()));
        if !without.is_empty() {
            hide(&mut image, without);
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, image).unwrap();
        // SAFETY: the library is our own and does nothing when it is loaded.
        let library = unsafe { Library::new(&path) }.unwrap();
        let fake = Self { vendor, path, library: ManuallyDrop::new(library), _dir: dir };
        if !settings.is_empty() {
            fake.set(settings);
        }
        fake
    }

    /// Where the library is, under the driver's own name.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// For `LD_LIBRARY_PATH`: a process of its own has a fake of its own, set by `RIVERBED_FAKE`.
    pub(crate) fn dir(&self) -> &Path {
        self.path.parent().unwrap()
    }

    /// The name of its first device.
    pub(crate) fn device_text(&self) -> String {
        self.device_text_of(0)
    }

    /// The name of one of its devices.
    pub(crate) fn device_text_of(&self, ordinal: u32) -> String {
        let kind = match self.vendor {
            Vendor::Cuda => "cuda",
            Vendor::Hip => "hip",
        };
        format!("{kind}:{ordinal},library={}", self.path.display())
    }

    /// Takes settings; after the first call only faults: `fail=CALL@N/STATUS` (the N-th from
    /// now; CALL may be `any`), `lost=CALL@N/STATUS` (and all after it), `heal=now`.
    pub(crate) fn set(&self, settings: &str) {
        let text = CString::new(settings).unwrap();
        let set: unsafe extern "C" fn(*const std::ffi::c_char) -> u32 =
            self.symbol("riverbed_fake_set");
        // SAFETY: the text has a final zero.
        let refused = unsafe { set(text.as_ptr()) };
        assert_eq!(refused, 0, "the fake does not take '{settings}', or no longer");
    }

    /// What it has written down so far.
    pub(crate) fn report(&self) -> Report {
        let report: unsafe extern "C" fn(*mut u8, usize) -> usize =
            self.symbol("riverbed_fake_report");
        let mut text = Vec::new();
        loop {
            // SAFETY: as many bytes are there as said.
            let len = unsafe { report(text.as_mut_ptr(), text.len()) };
            if len <= text.len() {
                return serde_json::from_slice(&text[..len]).unwrap();
            }
            text.resize(len + 1024, 0);
        }
    }

    /// How often a call was made.
    pub(crate) fn count(&self, call: &str) -> u64 {
        self.report().calls.get(call).copied().unwrap_or_default()
    }

    /// The kinds of everything that was done wrong, in order.
    pub(crate) fn misuses(&self) -> Vec<String> {
        self.report().misuses.into_iter().map(|misuse| misuse.kind).collect()
    }

    /// Fails unless nothing was done wrong so far.
    #[track_caller]
    pub(crate) fn assert_no_misuse(&self) {
        let report = self.report();
        assert!(report.misuses.is_empty(), "{:#?}", report.misuses);
    }

    /// Fails unless nothing was done wrong and everything was given back, or is soon: a device is
    /// let go of in the background.
    #[track_caller]
    pub(crate) fn assert_clean(&self) {
        let begun = Instant::now();
        while !self.report().leaks.is_empty() && begun.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let report = self.report();
        assert!(report.misuses.is_empty(), "{:#?}", report.misuses);
        assert!(report.leaks.is_empty(), "never given back: {:?}", report.leaks);
    }

    /// A function of the library. The caller vouches for its type when calling it.
    pub(crate) fn symbol<F: Copy>(&self, name: &str) -> F {
        // SAFETY: the caller names the type the function has.
        let found = unsafe { self.library.get::<F>(name.as_bytes()) };
        *found.unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Whether the library has a symbol.
    pub(crate) fn has(&self, name: &str) -> bool {
        // SAFETY: the symbol is looked for, not used.
        unsafe { self.library.get::<*const ()>(name.as_bytes()) }.is_ok()
    }
}

impl fmt::Debug for FakeDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FakeDriver({})", self.path.display())
    }
}

/// Renames symbols in the image of a library, so that the loader does not find them.
fn hide(image: &mut [u8], symbols: &[&str]) {
    let mut hidden = BTreeSet::new();
    for word in image.split_mut(|&byte| byte == 0) {
        if let Some(symbol) = symbols.iter().find(|symbol| symbol.as_bytes() == word) {
            word[0] = b'-';
            hidden.insert(*symbol);
        }
    }
    let missing = symbols.iter().find(|symbol| !hidden.contains(*symbol));
    assert!(missing.is_none(), "the library has no {missing:?} to hide");
}
