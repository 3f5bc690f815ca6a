//! Ctrl-C, SIGTERM and SIGHUP.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::Failure;

/// A flag that Ctrl-C, SIGTERM and SIGHUP set. While `loading` is set nobody looks at it, and
/// nothing has to be brought to an end: then they end the process themselves, as a second one does.
pub(crate) fn catch_interrupts(loading: Arc<AtomicBool>) -> Result<Arc<AtomicBool>, Failure> {
    let flag = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&flag);
    let handler = move || {
        // A second one is for a process that does not see the first: a driver that hangs.
        let again = raised.swap(true, Ordering::Relaxed);
        if again || loading.load(Ordering::Relaxed) {
            let when = if again { "twice" } else { "while loading" };
            let _ = writeln!(std::io::stderr(), "error: interrupted {when}");
            std::process::exit(130);
        }
    };
    ctrlc::set_handler(handler)
        .map_err(|error| Failure::Failed(format!("cannot watch for Ctrl-C: {error}")))?;
    Ok(flag)
}
