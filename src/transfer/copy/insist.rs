//! Asking a driver again that refused to answer.

use std::time::Duration;

use crate::base::Result;

/// How often a driver may refuse to answer before its device counts as lost.
pub(super) const REFUSALS: u32 = 100;
/// Between two questions.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(1);

/// Blocks until `wait` has succeeded. When it fails for long the device is lost, and whatever
/// was on its way counts as over.
pub(super) fn insist(mut wait: impl FnMut() -> Result<()>) {
    for _ in 0..REFUSALS {
        match wait() {
            Ok(()) => return,
            Err(error) => tracing::warn!(%error, "waiting for a copy failed; asking again"),
        }
        std::thread::sleep(ASK_AGAIN);
    }
    tracing::error!("a lost device's copies count as done");
}
