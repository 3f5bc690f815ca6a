//! What checksums of a model's tensors must be: computed from its files, by reads of their own,
//! on a thread of their own.

use std::thread::JoinHandle;

use riverbed::Result;
use riverbed::device::Checksum;
use riverbed::transfer::Files;
use riverbed::weights::Model;

/// How much is read at once.
const PART_BYTES: u64 = 1 << 20;

/// Checksums under way, one for each tensor in the model's order.
pub(crate) struct Expected(JoinHandle<Result<Vec<u64>>>);

impl Expected {
    /// Starts reading.
    pub(crate) fn start(model: &Model) -> Result<Self> {
        let files = Files::open(model)?;
        let tensors = model.tensors().iter();
        let spans = tensors.map(|tensor| (tensor.file, tensor.offset_bytes, tensor.len_bytes));
        let spans: Vec<_> = spans.collect();
        let checksum = move |&(file, offset, len): &(usize, u64, u64)| {
            let mut sum = Checksum::default();
            let mut part = vec![0; PART_BYTES.min(len) as usize];
            let mut done = 0;
            while done < len {
                let take = PART_BYTES.min(len - done) as usize;
                files.read(file, offset + done, &mut part[..take])?;
                sum.update(&part[..take]);
                done += take as u64;
            }
            Ok(sum.finish())
        };
        let thread = std::thread::Builder::new().name("riverbed-verify".into());
        let thread = thread.spawn(move || spans.iter().map(checksum).collect());
        thread.map(Self).map_err(|error| {
            riverbed::Error::invalid("threads", "one more", format!("the system refuses: {error}"))
        })
    }

    /// Whether [`finish`](Self::finish) would not wait.
    pub(crate) fn is_done(&self) -> bool {
        self.0.is_finished()
    }

    /// Waits for the result.
    pub(crate) fn finish(self) -> Result<Vec<u64>> {
        self.0.join().unwrap_or(Err(riverbed::Error::Cancelled))
    }
}
