//! Fixed places: each unit of a pass gets one offset for good, so that its addresses are the
//! same in every pass. Pure arithmetic.
//!
//! A unit never overlaps the one before or after it, round from the last to the first, so that
//! one is loaded while another is used. Where the ring has room for more, units are laid in laps
//! of about equal length, which lets loading run ahead by nearly a lap everywhere.

/// Offsets for units of these sizes, used in this order again and again; or the least ring
/// that would do.
pub(super) fn fixed_places(sizes: &[u64], ring_bytes: u64) -> Result<Vec<u64>, u64> {
    let total: u64 = sizes.iter().sum();
    if total <= ring_bytes {
        return Ok(laps(sizes, 1, ring_bytes).unwrap_or_default());
    }
    let fewest = total.div_ceil(ring_bytes.max(1)) as usize;
    let deep = (fewest..=sizes.len().min(2 * fewest))
        .filter_map(|count| laps(sizes, count, ring_bytes))
        .find(|offsets| neighbours_are_apart(sizes, offsets));
    match deep {
        Some(offsets) => Ok(offsets),
        None => two_sides(sizes, ring_bytes),
    }
}

/// Units in `count` laps from the start of the ring, each of about the same length.
fn laps(sizes: &[u64], count: usize, ring_bytes: u64) -> Option<Vec<u64>> {
    let mut offsets = Vec::with_capacity(sizes.len());
    let (mut left, mut end) = (sizes.iter().sum::<u64>(), 0);
    let (mut laps_left, mut lap_bytes) = (count as u64, 0);
    for &bytes in sizes {
        if end == 0 {
            lap_bytes = left / laps_left.max(1);
        }
        // The unit across the mark goes where more of it lies.
        let over = laps_left > 1 && end > 0 && end + bytes / 2 > lap_bytes;
        if over {
            left -= end;
            laps_left -= 1;
            end = 0;
            lap_bytes = left / laps_left;
        }
        offsets.push(end);
        end += bytes;
        if end > ring_bytes {
            return None;
        }
    }
    Some(offsets)
}

/// Units alternate between the start of the ring and its end. An odd one out lies between its
/// neighbours. No ring smaller than this one needs would do in any other way.
fn two_sides(sizes: &[u64], ring_bytes: u64) -> Result<Vec<u64>, u64> {
    let count = sizes.len();
    let next = |at: usize| (at + 1) % count;
    let mut least = (0..count).map(|at| sizes[at] + sizes[next(at)]).max().unwrap_or(0);
    let mut first = 0;
    if count % 2 == 1 {
        let three = |at: usize| sizes[at] + sizes[next(at)] + sizes[next(next(at))];
        first = next((0..count).min_by_key(|&at| three(at)).unwrap_or(0));
        least = least.max(three((first + count - 1) % count));
    }
    if least > ring_bytes {
        return Err(least);
    }
    // From the odd one out on: it lies behind its predecessor at the start of the ring, and its
    // successor at the end.
    let mut offsets = vec![0; count];
    for step in 0..count {
        let at = (first + step) % count;
        let at_start = step % 2 == 0;
        offsets[at] = match (at_start, count % 2 == 1 && step == 0) {
            (_, true) => sizes[(at + count - 1) % count],
            (true, _) => 0,
            (false, _) => ring_bytes - sizes[at],
        };
    }
    Ok(offsets)
}

fn neighbours_are_apart(sizes: &[u64], offsets: &[u64]) -> bool {
    let count = sizes.len();
    (0..count).all(|at| {
        let next = (at + 1) % count;
        offsets[at] + sizes[at] <= offsets[next] || offsets[next] + sizes[next] <= offsets[at]
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_fits_is_laid_once() {
        assert_eq!(fixed_places(&[10, 20, 30], 60), Ok(vec![0, 10, 30]));
        assert_eq!(fixed_places(&[], 0), Ok(vec![]));
    }

    #[test]
    fn an_even_cycle_needs_two_slots_and_an_odd_one_three() {
        assert_eq!(fixed_places(&[10; 6], 20), Ok(vec![0, 10, 0, 10, 0, 10]));
        assert_eq!(fixed_places(&[10; 7], 20), Err(30));
        assert!(fixed_places(&[10; 7], 30).is_ok());
        assert_eq!(fixed_places(&[10, 10, 10, 3, 1], 15), Err(20));
        assert!(fixed_places(&[10, 10, 10, 3, 1], 20).is_ok(), "the odd one out is small");
    }

    #[test]
    fn laps_are_about_equal() {
        // Nine laps would be seven units each and one more.
        let offsets = fixed_places(&[10; 57], 70).unwrap();
        let starts: Vec<usize> = (0..57).filter(|&at| offsets[at] == 0).collect();
        let lengths: Vec<usize> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(lengths.iter().all(|&units| (6..=7).contains(&units)), "{lengths:?}");
        assert!(57 - starts[starts.len() - 1] >= 6);
    }

    proptest! {
        #[test]
        fn places_fit_and_neighbours_are_apart_or_a_ring_is_named_that_would_do(
            sizes in proptest::collection::vec(0..100u64, 2..40),
            ring_bytes in 1..600u64,
        ) {
            match fixed_places(&sizes, ring_bytes) {
                Ok(offsets) => {
                    prop_assert!(sizes.iter().zip(&offsets).all(|(s, o)| s + o <= ring_bytes));
                    prop_assert!(neighbours_are_apart(&sizes, &offsets));
                }
                Err(least) => {
                    prop_assert!(least > ring_bytes);
                    let offsets = fixed_places(&sizes, least);
                    prop_assert!(offsets.is_ok());
                    prop_assert!(neighbours_are_apart(&sizes, &offsets.unwrap_or_default()));
                }
            }
        }
    }
}
