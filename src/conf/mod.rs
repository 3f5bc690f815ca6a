//! Rank 1: alloc-conf strings, the one way to configure the allocators.
//!
//! *Purpose*: read, print, merge, validate and explain the settings, in PyTorch's grammar and
//! with PyTorch's keys, from one table of options (`table.rs`). That table also makes the
//! reference page `docs/conf.md`; a new option is one row in it.
//!
//! *Invariants*: (C1) a [`Conf`] is always valid: every call that changes one either leaves it
//! valid or fails and leaves it as it was. (C2) Printing and reading back gives an equal `Conf`.
//! (C3) No input panics.
//!
//! *Not here*: what the settings do. Policies and pools read [`Settings`] and act.
//!
//! ```
//! use riverbed::conf::Conf;
//!
//! let mut conf: Conf = "max_split_size_mb:64, garbage_collection_threshold:0.8,".parse()?;
//! assert_eq!(conf.max_split_size_bytes, Some(64 << 20));
//! conf.merge(&Conf::default().with_policy("expandable")?.with_limit_bytes(8 << 30)?)?;
//! assert_eq!(
//!     conf.to_string(),
//!     "policy:expandable,limit_mb:8192,max_split_size_mb:64,garbage_collection_threshold:0.8",
//! );
//! let error = "max_split_size:64".parse::<Conf>().unwrap_err();
//! assert!(error.to_string().contains("did you mean 'max_split_size_mb'?"));
//! # Ok::<(), riverbed::Error>(())
//! ```

mod docs;
mod env;
mod explain;
mod form;
mod mib;
mod policy;
mod process_pool;
mod reserve;
mod roundup;
mod settings;
mod spec;
pub(crate) mod suggest;
mod table;
mod tokens;

pub use docs::reference_markdown;
pub use env::{PYTORCH_VARIABLES, Pytorch, RIVERBED_ALLOC_CONF};
pub use explain::{OptionReport, Source};
pub use policy::{Backend, CACHING, EXPANDABLE, MEMPOOL, PLANNED};
pub use reserve::Reserve;
pub use roundup::RoundupDivisions;
pub use settings::Conf;
pub use spec::{HonouredBy, OptionSpec, Status};
pub use table::{Settings, options};
