//! The value of `--perturb`.

use riverbed::replay::Perturb;

pub(super) fn parse(text: &str) -> Result<Perturb, String> {
    let (share, seed) = text.split_once(',').unwrap_or((text, "0"));
    let (number, whole) = match share.strip_suffix('%') {
        Some(percent) => (percent, 100.0),
        None => (share, 1.0),
    };
    let share = number.parse::<f64>().ok().map(|number| number / whole);
    let share = share.filter(|share| (0.0..=1.0).contains(share));
    let share = share.ok_or("a share is from 0 to 1, or from 0% to 100%")?;
    let seed = seed.parse().map_err(|_| format!("'{seed}' is no seed: a whole number"))?;
    Ok(Perturb { share, seed })
}
