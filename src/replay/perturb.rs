//! Traces that nearly repeat: some requests of each replay have other sizes.

use super::trace::Trace;

/// Which sizes change, and by how much: by a factor from 0.5 to 1.5, all alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Perturb {
    /// How likely a request is to change, from 0 to 1.
    pub share: f64,
    /// Where the random numbers begin; the same seed gives the same sizes.
    pub seed: u64,
}

impl Perturb {
    /// The trace as the replay of this number has it.
    pub(super) fn trace(self, trace: &Trace, number: u32) -> Trace {
        let mut state = self.seed ^ (u64::from(number) << 32);
        let mut random = move || {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            (mixed >> 11) as f64 / (1_u64 << 53) as f64
        };
        trace.resized(|bytes| {
            let (changes, factor) = (random() < self.share, 0.5 + random());
            if changes { ((bytes as f64 * factor) as u64).max(1) } else { bytes }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::trace::Builder;
    use super::*;

    #[test]
    fn about_so_many_sizes_change_and_by_half_at_most() {
        let mut builder = Builder::default();
        for _ in 0..2000 {
            let stream = builder.stream(0).unwrap();
            let live = builder.alloc(1 << 20, stream).unwrap();
            builder.free(live, None).unwrap();
        }
        let trace = builder.finish("even").unwrap();
        let perturb = Perturb { share: 0.05, seed: 3 };
        let other = perturb.trace(&trace, 2);
        assert_eq!(other, perturb.trace(&trace, 2));
        assert_ne!(other, perturb.trace(&trace, 3));
        assert_eq!(perturb.trace(&trace, 2).ops().len(), trace.ops().len());
        let changed: Vec<u64> =
            other.ops().iter().map(|op| op.bytes).filter(|&bytes| bytes != 1 << 20).collect();
        assert!((120..280).contains(&changed.len()), "{} of 4000", changed.len());
        assert!(changed.iter().all(|bytes| (1 << 19..3 << 19).contains(bytes)));
        assert_eq!(other.peak_live_bytes(), changed.into_iter().max().unwrap());
    }
}
