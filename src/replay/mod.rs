//! Rank 9: runs a trace against any device, policy and conf, and scores it.
//!
//! *Purpose*: [`read`] turns RMM's allocation logs and PyTorch's memory snapshots into one
//! compact form; [`score`] replays it and measures; [`contest`] ranks confs on it.
//!
//! *Semantics*: operations run in the order of the trace on one thread and enqueue no work, so
//! whatever a stream was recorded for is over by the next operation. A free on another stream
//! than the block's is a use there, then a free.
//!
//! *Invariants*: (R1) no file panics, and none takes memory out of proportion to its length.
//! (R2) Counts of a fresh replay repeat exactly. (R3) A replay leaves nothing allocated.
//!
//! ```no_run
//! use riverbed::conf::Conf;
//! use riverbed::replay::{DEVICE, Plan, Setup, read, score};
//!
//! let setup = Setup::new(DEVICE);
//! for trace in read("trace.csv.gz".as_ref(), None)? {
//!     let score = score(&trace, &setup, &Plan::default(), &())?;
//!     if let Some(fresh) = &score.fresh {
//!         println!("{} of {} bytes", fresh.peak_reserved, score.peak_live);
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod clock;
mod contest;
mod engine;
mod measure;
mod perturb;
mod pickle;
mod read;
mod rmm_csv;
mod score;
mod snapshot;
mod target;
mod threads;
mod trace;

pub use contest::{Entry, candidates, contest};
pub use engine::{Stop, Watch};
pub use measure::{Plan, score};
pub use perturb::Perturb;
pub use read::read;
pub use score::{CallTimes, Capacity, Fresh, Perturbed, Score, Warm};
pub use target::{Route, Setup};
pub use trace::{Op, OpKind, Trace};

/// The device replays run on unless another is named: far more memory than any trace needs, of
/// which nothing is ever touched.
pub const DEVICE: &str = "sim:1TiB";
