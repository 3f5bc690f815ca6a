//! What a conf means for the process pool: the driver places, so only the limits and the options
//! of the driver's pools count.

use super::explain::OptionReport;
use super::policy::{self, MEMPOOL};
use super::settings::Conf;
use super::spec::{HonouredBy, OptionSpec};
use super::table;
use super::tokens::conf_error;
use crate::base::Result;

impl Conf {
    /// This conf with `policy:mempool`, the only one a process pool can have.
    ///
    /// # Errors
    /// [`Error::Conf`](crate::Error::Conf) if another policy is set.
    pub fn for_process_pool(&self) -> Result<Self> {
        // `expandable_segments:False` chooses nothing.
        let chooses = |key: &&str| {
            self.is_set(key) && (self.expandable_segments || *key != "expandable_segments")
        };
        if self.policy() != MEMPOOL
            && let Some(key) = policy::KEYS.into_iter().find(chooses)
        {
            let policy = self.policy();
            return Err(conf_error(
                key,
                format!(
                    "chooses the policy {policy}, but in the process's pool the driver places \
                     blocks; leave the key out, or give that policy to an allocator"
                ),
            ));
        }
        let mut conf = self.clone();
        conf.merge(&Self::default().with_policy(MEMPOOL)?)?;
        Ok(conf)
    }

    /// Every option as [`explain`](Self::explain) tells it, with those the process pool does not
    /// read marked as such.
    #[must_use]
    pub fn explain_for_process_pool(&self) -> Vec<OptionReport> {
        self.explain_as(is_read)
    }

    /// The keys that are set and that the process pool does not read.
    #[must_use]
    pub fn unread_by_process_pool(&self) -> Vec<&'static str> {
        let unread = table::options().iter().filter(|spec| self.is_set(spec.key) && !is_read(spec));
        unread.map(|spec| spec.key).collect()
    }
}

/// The keys that chose the policy have done their work.
fn is_read(spec: &OptionSpec) -> bool {
    policy::KEYS.contains(&spec.key) || spec.honoured_by.contains(&HonouredBy::ProcessPool)
}
