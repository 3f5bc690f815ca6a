//! Policies by name, so that a conf string can choose one.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, OnceLock};

use super::caching::Caching;
use super::contract::Policy;
use super::expandable::Expandable;
use super::mempool::Mempool;
use super::planned::Planned;
use super::whole::WholeSegments;
use crate::base::{Error, Result, lock};
use crate::conf::{CACHING, Conf, EXPANDABLE, MEMPOOL, PLANNED};

/// Makes a policy from a conf.
pub type Factory = Arc<dyn Fn(&Conf) -> Result<Box<dyn Policy>> + Send + Sync>;

fn registry() -> &'static Mutex<BTreeMap<String, Factory>> {
    static REGISTRY: OnceLock<Mutex<BTreeMap<String, Factory>>> = OnceLock::new();
    REGISTRY.get_or_init(|| {
        let caching: Factory = Arc::new(|conf| Ok(Box::new(Caching::new(conf))));
        let expandable: Factory = Arc::new(|conf| Ok(Box::new(Expandable::new(conf))));
        let planned: Factory = Arc::new(|conf| Ok(Box::new(Planned::new(conf))));
        let mempool: Factory = Arc::new(|_| Ok(Box::new(Mempool)));
        let known =
            [(CACHING, caching), (EXPANDABLE, expandable), (PLANNED, planned), (MEMPOOL, mempool)];
        Mutex::new(known.map(|(name, factory)| (name.to_string(), factory)).into())
    })
}

/// Registers a policy of one's own: `policy:NAME` in a conf string then chooses it.
///
/// # Errors
/// A name that is taken.
pub fn register(
    name: &str,
    factory: impl Fn(&Conf) -> Result<Box<dyn Policy>> + Send + Sync + 'static,
) -> Result<()> {
    let mut registry = lock(registry());
    if registry.contains_key(name) {
        return Err(Error::invalid("policy name", name, "it is taken; choose another"));
    }
    registry.insert(name.to_string(), Arc::new(factory));
    Ok(())
}

/// The names [`create`] knows.
#[must_use]
pub fn names() -> Vec<String> {
    lock(registry()).keys().cloned().collect()
}

/// The policy of one stream: the one nearly everybody uses where the compiler sees it, so that
/// the hot path makes no indirect call; anyone else's behind the trait.
#[derive(Debug)]
pub(crate) enum Chosen {
    /// The default.
    Caching(Caching),
    /// The one that maps free memory anew.
    Expandable(Expandable),
    /// The one that serves what it recorded.
    Planned(Box<Planned>),
    /// Registered under a name.
    Registered(Box<dyn Policy>),
}

impl Chosen {
    /// True for the policies whose memory is mapped handle by handle.
    pub(crate) fn maps(&self) -> bool {
        matches!(self, Self::Expandable(_) | Self::Planned(_))
    }
}

impl Deref for Chosen {
    type Target = dyn Policy;

    fn deref(&self) -> &(dyn Policy + 'static) {
        match self {
            Self::Caching(caching) => caching,
            Self::Expandable(expandable) => expandable,
            Self::Planned(planned) => &**planned,
            Self::Registered(policy) => &**policy,
        }
    }
}

impl DerefMut for Chosen {
    fn deref_mut(&mut self) -> &mut (dyn Policy + 'static) {
        match self {
            Self::Caching(caching) => caching,
            Self::Expandable(expandable) => expandable,
            Self::Planned(planned) => &mut **planned,
            Self::Registered(policy) => &mut **policy,
        }
    }
}

/// Makes the policy `conf` chooses, for one stream. Where memory cannot be mapped, caching
/// stands in for the expandable policy.
///
/// # Errors
/// A name nobody registered; what its factory says.
pub(crate) fn choose(conf: &Conf, maps: bool, whole_segments: bool) -> Result<Chosen> {
    if whole_segments {
        let placing: Box<dyn Policy> = match conf.policy() {
            // Segments that are mapped handle by handle are never handed out whole.
            EXPANDABLE | PLANNED => Box::new(Caching::new(conf)),
            _ => create(conf)?,
        };
        return Ok(Chosen::Registered(Box::new(WholeSegments(placing))));
    }
    match conf.policy() {
        EXPANDABLE if maps => Ok(Chosen::Expandable(Expandable::new(conf))),
        PLANNED if maps => Ok(Chosen::Planned(Box::new(Planned::new(conf)))),
        CACHING | EXPANDABLE | PLANNED => Ok(Chosen::Caching(Caching::new(conf))),
        _ => create(conf).map(Chosen::Registered),
    }
}

/// Makes the policy `conf` chooses.
///
/// # Errors
/// A name nobody registered; what its factory says.
pub fn create(conf: &Conf) -> Result<Box<dyn Policy>> {
    let name = conf.policy();
    let factory = lock(registry()).get(name).cloned();
    let factory = factory.ok_or_else(|| {
        let known = names().join(", ");
        Error::invalid("policy", name, format!("nobody registered it; available: {known}"))
    })?;
    factory(conf)
}
