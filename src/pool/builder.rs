//! The settings of an allocator, on the way to one.

use std::sync::Arc;

use super::allocator::{Allocator, Inner};
use super::driver_pool::DriverPool;
use super::heaps::Heaps;
use super::shared::Shared;
use crate::base::Result;
use crate::conf::{Conf, Pytorch};
use crate::device::Device;
use crate::event::Recorder;
use crate::policy;

/// Settings of an [`Allocator`].
#[derive(Debug)]
#[must_use = "call build()"]
pub struct AllocatorBuilder {
    device: Device,
    conf: Conf,
    pytorch: Pytorch,
    limit_bytes: Option<u64>,
    recorder: Option<Arc<dyn Recorder>>,
}

impl AllocatorBuilder {
    pub(super) fn new(device: &Device) -> Self {
        Self {
            device: device.clone(),
            conf: Conf::default(),
            pytorch: Pytorch::Ignore,
            limit_bytes: None,
            recorder: None,
        }
    }

    /// Uses `conf` in place of the default.
    pub fn conf(mut self, conf: Conf) -> Self {
        self.conf = conf;
        self
    }

    /// Merges an alloc-conf string over what is set.
    ///
    /// # Errors
    /// What is wrong with the string.
    pub fn conf_str(mut self, conf: &str) -> Result<Self> {
        self.conf.merge(&conf.parse()?)?;
        Ok(self)
    }

    /// Never reserves more than `bytes` from the device. The smallest of this, `limit_mb` and
    /// `per_process_memory_fraction` counts.
    ///
    /// # Errors
    /// A limit that contradicts the conf.
    pub fn limit_bytes(mut self, bytes: u64) -> Result<Self> {
        // Refuses what the conf would; the limit itself is settled in `build`.
        self.conf.clone().with_limit_bytes(bytes)?;
        self.limit_bytes = Some(self.limit_bytes.map_or(bytes, |other| other.min(bytes)));
        Ok(self)
    }

    /// Shows `recorder` everything that happens.
    pub fn recorder(mut self, recorder: Arc<dyn Recorder>) -> Self {
        self.recorder = Some(recorder);
        self
    }

    /// Where `RIVERBED_ALLOC_CONF` is silent too, PyTorch's variables count.
    pub fn pytorch_env(mut self) -> Self {
        self.pytorch = Pytorch::Honour;
        self
    }

    /// The allocator. Takes no memory yet. What was set here counts over the environment, key by
    /// key.
    ///
    /// # Errors
    /// A variable that is not a valid conf, or contradicts what was set; a key that nothing acts
    /// on yet, set to something else than its default; a policy nobody registered; what the
    /// policy says; `policy:mempool` on a device without memory pools, or with a limit where the
    /// driver's pool keeps to none.
    pub fn build(mut self) -> Result<Allocator> {
        self.conf = self.conf.over_env(self.pytorch)?;
        self.conf.refuse_unmet()?;
        if let Some(least) = self.limit_bytes.into_iter().chain(self.conf.limit_bytes).min() {
            self.conf = self.conf.with_limit_bytes(least)?;
        }
        // Every stream makes one of its own; that it can be made is told here.
        policy::choose(&self.conf, false, false)?;
        let limit_bytes = self.conf.device_limit_bytes(self.device.info().total_bytes);
        let unread = self.conf.set_but_unread();
        if !unread.is_empty() {
            let (policy, keys) = (self.conf.policy(), unread.join(", "));
            tracing::warn!(policy, keys, "the policy does not read these keys of the conf");
        }
        let pool = DriverPool::of_conf(&self.device, &self.conf, limit_bytes)?;
        let shared = Shared::new(self.device, self.conf, limit_bytes, pool, self.recorder);
        Ok(Allocator(Arc::new(Inner { shared: Arc::new(shared), heaps: Heaps::new() })))
    }
}
