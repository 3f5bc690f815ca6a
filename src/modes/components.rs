//! Which of a job's components always or never leave the device, by the names people give them:
//! the component's own, or the class it has in diffusers and transformers.

use crate::plan::{Component, Job, Keep};

/// What components of a class are called in jobs. A name matches if one of its words begins so.
const CLASSES: &[(&str, &[&str])] = &[
    ("t5encodermodel", &["t5"]),
    ("umt5encodermodel", &["umt5"]),
    ("cliptextmodel", &["clip"]),
    ("cliptextmodelwithprojection", &["clip", "openclip"]),
    ("autoencoderkl", &["vae", "autoencoder"]),
];
const REFINERS: &[&str] = &["refiner"];
const DENOISERS: &[&str] = &["unet", "transformer", "dit", "denoiser", "base"];
const VAES: &[&str] = &["vae", "autoencoder", "decoder"];

/// SD.Next's three settings for moving by hand. Each takes a component off the device after its
/// phase; without, a mode that keeps components keeps it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moves {
    /// `diffusers_move_base`: the base model makes room for the refiner.
    pub base: bool,
    /// `diffusers_move_unet`: the denoiser makes room for the VAE.
    pub unet: bool,
    /// `diffusers_move_refiner`: the refiner is on the device for its pass only.
    pub refiner: bool,
}

impl Moves {
    /// True when one of them is set.
    #[must_use]
    pub fn any(self) -> bool {
        self.base || self.unet || self.refiner
    }

    /// Marks the components that make room. Gives what has no effect on this job, in sentences.
    pub(super) fn apply_to(self, job: &mut Job) -> Vec<String> {
        let uses = |job: &Job, stems: &[&str]| {
            job.phases.iter().any(|phase| {
                job.components.get(phase.component).is_some_and(|c| is_one_of(&c.name, stems))
            })
        };
        let (has_refiner, has_vae) = (uses(job, REFINERS), uses(job, VAES));
        let mut remarks = Vec::new();
        let mut act = |wanted: bool, key: &str, needs: bool, lacks: &str| {
            if wanted && !needs {
                remarks.push(format!("{key} has no effect: the job has no {lacks}"));
            }
            wanted && needs
        };
        let base = act(self.base, "diffusers_move_base", has_refiner, "refiner phase");
        let unet = act(self.unet, "diffusers_move_unet", has_vae, "VAE phase");
        let refiner = act(self.refiner, "diffusers_move_refiner", has_refiner, "refiner phase");
        for component in &mut job.components {
            let is_refiner = is_one_of(&component.name, REFINERS);
            let is_denoiser = !is_refiner && is_one_of(&component.name, DENOISERS);
            // The whole pipeline of the base leaves, its text encoders too; the VAE is shared.
            let is_base = !is_refiner && !is_one_of(&component.name, VAES);
            if (refiner && is_refiner) || (unet && is_denoiser) || (base && is_base) {
                component.keep = Keep::Never;
            }
        }
        remarks
    }
}

/// Marks components by two lists of names. A component in both stays, as in SD.Next, where the
/// list of those that stay is asked first. Gives the names nothing has, in sentences.
pub(super) fn keep_components<S: AsRef<str>>(
    job: &mut Job,
    always: &[S],
    never: &[S],
) -> Vec<String> {
    let mut remarks = Vec::new();
    for (names, keep) in [(always, Keep::Never), (never, Keep::Always)] {
        for name in names.iter().map(AsRef::as_ref) {
            let mut found = false;
            for component in job.components.iter_mut().filter(|c| is_named(c, name)) {
                component.keep = keep;
                found = true;
            }
            if !found {
                remarks.push(format!("no component of the job is '{name}'"));
            }
        }
    }
    remarks
}

/// Whether a component is meant by a name or a class.
fn is_named(component: &Component, name: &str) -> bool {
    let plain = name.to_lowercase();
    let class = CLASSES.iter().find(|(class, _)| *class == plain);
    component.name.to_lowercase() == plain
        || class.is_some_and(|(_, stems)| is_one_of(&component.name, stems))
}

/// Whether a word of the name begins with one of the stems.
fn is_one_of(name: &str, stems: &[&str]) -> bool {
    let name = name.to_lowercase();
    let mut words = name.split(|c: char| !c.is_alphanumeric());
    words.any(|word| stems.iter().any(|stem| word.starts_with(stem)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(names: &[&str]) -> Job {
        let mut job = Job::new("test");
        for name in names {
            let at = job.component(Component::new(*name, Vec::new()));
            job.phase(*name, at, 1, 0);
        }
        job
    }

    fn keeps(job: &Job) -> Vec<Keep> {
        job.components.iter().map(|component| component.keep).collect()
    }

    #[test]
    fn classes_and_names_find_their_components() {
        let mut job = job(&["clip_l", "t5xxl", "umt5_xxl", "transformer", "vae"]);
        let always = ["T5EncoderModel", "Transformer"];
        let never = ["AutoencoderKL", "Nothing"];
        let remarks = keep_components(&mut job, &always, &never);
        let planned = Keep::Planned;
        assert_eq!(keeps(&job), [planned, Keep::Never, planned, Keep::Never, Keep::Always]);
        assert_eq!(remarks, ["no component of the job is 'Nothing'"]);
    }

    #[test]
    fn a_component_in_both_lists_stays() {
        let mut job = job(&["vae"]);
        keep_components(&mut job, &["vae"], &["AutoencoderKL"]);
        assert_eq!(keeps(&job), [Keep::Always]);
    }

    #[test]
    fn moves_act_on_a_job_with_a_refiner_and_remark_on_one_without() {
        let all = Moves { base: true, unet: true, refiner: true };
        let mut with = job(&["clip_l", "unet", "refiner_unet", "vae"]);
        assert!(all.apply_to(&mut with).is_empty());
        assert_eq!(keeps(&with), [Keep::Never, Keep::Never, Keep::Never, Keep::Planned]);

        let mut without = job(&["clip_l", "unet", "vae"]);
        assert_eq!(all.apply_to(&mut without).len(), 2);
        assert_eq!(keeps(&without), [Keep::Planned, Keep::Never, Keep::Planned]);

        let mut refiner = job(&["unet", "refiner", "vae"]);
        Moves { refiner: true, ..Moves::default() }.apply_to(&mut refiner);
        assert_eq!(keeps(&refiner), [Keep::Planned, Keep::Never, Keep::Planned]);
    }
}
