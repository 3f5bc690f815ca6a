//! Rank 3: when memory may be used again. Which stream is which, pooled events, and the
//! retirement queue that knows when the last use of a freed thing is over.

mod events;
mod retire;
mod stream_key;

pub use events::EventPool;
pub use retire::RetireQueue;
pub use stream_key::StreamKey;
