//! Finding a vendor's driver library at run time.

use std::ffi::c_int;
use std::path::Path;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

/// `dlopen`'s flag for "only if it is loaded already", on Linux with glibc and musl.
const RTLD_NOLOAD: c_int = 4;

/// An open library and the name it was found under.
#[derive(Debug)]
pub(in crate::device) struct Found {
    pub(in crate::device) name: String,
    /// Never closed: drivers start threads that outlive any handle.
    pub(in crate::device) library: &'static Library,
}

/// Opens the first of `names` that loads; one that the process has loaded already goes first,
/// so that a process never runs two copies of a driver. Else says why none did.
pub(in crate::device) fn open(names: &[String]) -> Result<Found, String> {
    let mut failure = None;
    for flags in [RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD, RTLD_NOW | RTLD_LOCAL] {
        for name in names {
            // SAFETY: loading runs the library's initialisers. These are the vendor's names of
            // its driver, which every program for its GPUs loads the same way, or a file that
            // the user named as such.
            match unsafe { Library::open(Some(Path::new(name)), flags) } {
                Ok(library) => {
                    let library = Box::leak(Box::new(library));
                    return Ok(Found { name: name.clone(), library });
                }
                // A file that is there and does not load says more than those that are not.
                Err(error) => {
                    let reason = reason(&error);
                    let missing = reason.contains("No such file");
                    if flags & RTLD_NOLOAD == 0
                        && (failure.is_none() || !missing && name.contains('/'))
                    {
                        failure = Some(reason);
                    }
                }
            }
        }
    }
    Err(failure.unwrap_or_else(|| "no name to look for".into()))
}

/// The loader's own words, which the error keeps as its source.
fn reason(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_named() {
        let reason = open(&["libriverbed-no-such.so.1".into()]).unwrap_err();
        assert!(reason.contains("libriverbed-no-such.so.1"), "{reason}");
        assert!(open(&[]).is_err());
    }

    #[test]
    fn a_file_that_does_not_load_is_told_from_one_that_is_not_there() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "no library").unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        let reason = open(&["libriverbed-no-such.so.1".into(), path.clone()]).unwrap_err();
        assert!(reason.contains(&path), "{reason}");
    }
}
