//! Rank 3: the low-VRAM modes people know, as rules for [`plan`](crate::plan).
//!
//! *Purpose*: a [`Mode`] is a name with a few rules and budgets behind it; [`settings_from_file`]
//! reads the config files of InvokeAI, SD.Next, AUTOMATIC1111 and DiffSynth-Studio, keys and
//! units as they are there, into [`OffloadSettings`]. Beside them stand the rules of those
//! systems that have a figure as their outcome ([`RamCacheSize`], [`working`]) and their own
//! policies as simulations, to compare plans with ([`mod@reference`]).
//!
//! *Invariants*: everything here is a pure function of its input, but for reading the config
//! file. A name or a key means what it means in the system it comes from; where two systems
//! differ, the system must be named.
//!
//! *Not here*: planning ([`plan`](crate::plan)) and running (`offload`).
//!
//! ```
//! use riverbed::modes::{Card, Mode};
//! use riverbed::plan::Retention;
//!
//! let mode = Mode::parse("balanced=0.2,0.6")?;
//! let preset = mode.preset(&Card::of(10_000_000_000));
//! let marks = Retention::Watermarks { low_bytes: 2_000_000_000, high_bytes: 6_000_000_000 };
//! assert_eq!(preset.rules.retention, marks);
//!
//! let error = Mode::parse("medvram").unwrap_err().to_string();
//! assert!(error.contains("a1111:medvram") && error.contains("sdnext:medvram"), "{error}");
//! # Ok::<(), riverbed::Error>(())
//! ```

mod components;
mod config;
mod defaults;
mod limit;
mod names;
mod options;
mod presets;
mod ram_cache;
pub mod reference;
mod sdxl;
mod settings;
mod states;
mod system;
mod watermarks;
pub mod working;

pub use components::Moves;
pub use config::{ConfigFormat, settings_from_file, settings_from_text};
pub use defaults::{SdnextCard, a1111_card, diffsynth_card, invoke_safe_cap, sdnext_card};
pub use limit::{Card, MARGIN_BYTES, VramLimit, smallest};
pub use names::ModeName;
pub use presets::{Group, Mode, ModeKind, PARTIAL_WORKING_BYTES, Preset};
pub use ram_cache::RamCacheSize;
pub use sdxl::is_sdxl;
pub use settings::{OffloadSettings, RamLimit};
pub use states::{Place, State, States};
pub use system::System;
pub use watermarks::{Mark, Watermarks};
