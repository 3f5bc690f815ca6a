//! Which weights are patched by which LoRAs, and their factors on the device.
//!
//! All LoRAs of a weight are one patch: their factors stand side by side, and a number a rank says
//! how much each counts, so that a weight is rounded once however many there are. A strength is
//! changed by writing those numbers anew.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use super::lora::Lora;
use crate::base::{Error, Result, align_up, lock};
use crate::device::{DevicePtr, FloatFormat, Kernel, Stream};
use crate::pinned::PinnedPool;
use crate::pool::{Allocator, Buffer};
use crate::transfer::Transfer;
use crate::weights::{ALIGN_BYTES, LoraTargets, Model};

/// Bytes that go to the device at once.
const UPLOAD_BYTES: usize = 256 << 10;

/// The patches of a model's weights.
#[derive(Debug)]
pub(super) struct Patches {
    loras: Vec<Arc<Lora>>,
    /// By the weight's name.
    targets: HashMap<String, Target>,
    /// What counts how much, of all targets, comes first on the device.
    scales: usize,
    len_bytes: u64,
    strengths: Mutex<Vec<f32>>,
    /// Held while strengths are changed, so that changes follow each other.
    changing: Mutex<()>,
    /// Once it is there.
    on_device: OnceLock<OnDevice>,
}

/// A weight that is patched.
#[derive(Debug)]
struct Target {
    rows: u64,
    columns: u64,
    rank: u64,
    factors: FloatFormat,
    /// In the buffer, in bytes.
    up_at: u64,
    down_at: u64,
    /// In the numbers of all targets.
    scales_at: usize,
    parts: Vec<Part>,
}

/// What one LoRA does to a weight.
#[derive(Debug)]
struct Part {
    lora: usize,
    pair: usize,
}

#[derive(Debug)]
struct OnDevice {
    buffer: Buffer<u8>,
    pinned: PinnedPool,
    transfer: Transfer,
}

/// A matrix to be patched: of `rows x columns` in the patch's shape.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patched {
    pub(super) src: DevicePtr,
    pub(super) dst: DevicePtr,
    pub(super) formats: [FloatFormat; 2],
    pub(super) saturate: bool,
    pub(super) count: u64,
}

impl Patches {
    /// The patches of `loras` for `model`, each with its strength.
    ///
    /// # Errors
    /// Two LoRAs of one name; a LoRA of which nothing, or something ambiguous or of another
    /// shape, is for this model; a strength that is not finite.
    pub(super) fn new(model: &Model, loras: &[(Arc<Lora>, f32)]) -> Result<Self> {
        let names = LoraTargets::new(model);
        let mut parts = HashMap::<String, Vec<Part>>::new();
        for (number, (lora, strength)) in loras.iter().enumerate() {
            check_strength(lora.name(), *strength)?;
            if loras[..number].iter().any(|(other, _)| other.name() == lora.name()) {
                let expected = "two have this name; give one another (Lora::named)";
                return Err(Error::invalid("LoRA", lora.name(), expected));
            }
            let mut unknown = Vec::new();
            for (pair, of) in lora.pairs.iter().enumerate() {
                match names.find(of)? {
                    Some(index) => {
                        let name = model.tensors()[index].name.clone();
                        parts.entry(name).or_default().push(Part { lora: number, pair });
                    }
                    None => unknown.push(&of.module[..]),
                }
            }
            report_unknown(lora, model, &unknown)?;
        }
        let strengths = loras.iter().map(|(_, strength)| *strength).collect();
        let loras = loras.iter().map(|(lora, _)| Arc::clone(lora)).collect();
        Self::placed(loras, parts, strengths)
    }

    /// Gives everything a place in the buffer, in the order of the weights' names.
    fn placed(
        loras: Vec<Arc<Lora>>,
        parts: HashMap<String, Vec<Part>>,
        strengths: Vec<f32>,
    ) -> Result<Self> {
        let too_large = || Error::invalid("LoRAs", loras.len(), "their factors exceed 2^64 bytes");
        let mut sorted: Vec<_> = parts.into_iter().collect();
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        let rank_of = |part: &Part| loras[part.lora].pairs[part.pair].rank;
        let ranks = sorted.iter().flat_map(|(_, parts)| parts).map(rank_of);
        let ranks = ranks.fold(0, u64::saturating_add);
        let scales = usize::try_from(ranks).map_err(|_| too_large())?;
        let mut end = ranks.checked_mul(4).and_then(|end| align_up(end, ALIGN_BYTES));
        let mut take = |numbers: Option<u64>, size: u64| {
            let at = end?;
            let bytes = numbers?.checked_mul(size)?;
            end = at.checked_add(bytes).and_then(|end| align_up(end, ALIGN_BYTES));
            end.map(|_| at)
        };
        let (mut targets, mut scales_at) = (HashMap::new(), 0);
        for (name, parts) in sorted {
            let Some(first) = parts.first() else { continue };
            let pair = &loras[first.lora].pairs[first.pair];
            let (rows, columns) = (pair.rows, pair.columns);
            let rank: u64 = parts.iter().map(rank_of).sum();
            let format = loras[first.lora].format(first.pair);
            let is_alike = |part: &Part| loras[part.lora].format(part.pair) == format;
            let factors = format.filter(|_| parts.iter().all(is_alike));
            let factors = factors.unwrap_or(FloatFormat::F32);
            let size = factors.size_bytes();
            let up_at = take(rows.checked_mul(rank), size).ok_or_else(too_large)?;
            let down_at = take(columns.checked_mul(rank), size).ok_or_else(too_large)?;
            let target = Target { rows, columns, rank, factors, up_at, down_at, scales_at, parts };
            scales_at += rank as usize;
            targets.insert(name, target);
        }
        let len_bytes = end.ok_or_else(too_large)?;
        let strengths = Mutex::new(strengths);
        let (changing, on_device) = (Mutex::new(()), OnceLock::new());
        Ok(Self { loras, targets, scales, len_bytes, strengths, changing, on_device })
    }

    /// Whether the weight is patched at any strengths.
    pub(super) fn has(&self, name: &str) -> bool {
        self.targets.contains_key(name)
    }

    /// Names of the weights that are patched.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.targets.keys().map(String::as_str)
    }

    /// Bytes on the device.
    pub(super) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Takes the factors to the device, unless they are there. Blocks.
    pub(super) fn settle(&self, allocator: &Allocator, pinned: &PinnedPool) -> Result<()> {
        let _changing = lock(&self.changing);
        if self.on_device.get().is_some() {
            return Ok(());
        }
        let len = usize::try_from(self.len_bytes)
            .map_err(|_| Error::invalid("LoRAs", self.len_bytes, "they exceed memory"))?;
        let transfer = Transfer::new(allocator.device())?;
        let stream = Stream::new(allocator.device(), crate::device::Priority::Normal)?;
        let buffer = allocator.alloc_dedicated::<u8>(len, &stream)?;
        let on_device = OnDevice { buffer, pinned: pinned.clone(), transfer };
        for target in self.targets.values() {
            on_device.upload(target.up_at, &self.ups(target)?)?;
            on_device.upload(target.down_at, &self.downs(target)?)?;
        }
        on_device.upload(0, &self.counts(&lock(&self.strengths).clone()))?;
        self.on_device.get_or_init(|| on_device);
        Ok(())
    }

    /// The first factors of a target, side by side: each row of each LoRA's in one row.
    fn ups(&self, target: &Target) -> Result<Vec<u8>> {
        let size = target.factors.size_bytes();
        let mut all = vec![0; (target.rows * target.rank * size) as usize];
        let mut before = 0;
        for Part { lora, pair } in &target.parts {
            let lora = &self.loras[*lora];
            let pair = &lora.pairs[*pair];
            let width = (pair.rank * size) as usize;
            let up = lora.factor(pair.up, target.factors)?;
            let rows = all.chunks_exact_mut(((target.rank * size) as usize).max(1));
            for (row, part) in rows.zip(up.chunks_exact(width.max(1))) {
                row[before..before + width].copy_from_slice(part);
            }
            before += width;
        }
        Ok(all)
    }

    /// The second factors of a target, one below the other.
    fn downs(&self, target: &Target) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        for Part { lora, pair } in &target.parts {
            let lora = &self.loras[*lora];
            all.extend(lora.factor(lora.pairs[*pair].down, target.factors)?);
        }
        Ok(all)
    }

    /// What each rank of each target counts, as bytes.
    fn counts(&self, strengths: &[f32]) -> Vec<u8> {
        let mut all = vec![0; 4 * self.scales];
        for target in self.targets.values() {
            let mut at = 4 * target.scales_at;
            for Part { lora, pair } in &target.parts {
                let count = strengths[*lora] * self.loras[*lora].scales[*pair];
                for _ in 0..self.loras[*lora].pairs[*pair].rank {
                    all[at..at + 4].copy_from_slice(&count.to_le_bytes());
                    at += 4;
                }
            }
        }
        all
    }

    /// The LoRAs' names and strengths.
    pub(super) fn strengths(&self) -> Vec<(String, f32)> {
        let names = self.loras.iter().map(|lora| lora.name().to_owned());
        names.zip(lock(&self.strengths).iter().copied()).collect()
    }

    /// Changes a strength; loads that are enqueued from now on find it. Blocks for a small copy
    /// behind the loads that are enqueued.
    pub(super) fn set_strength(&self, lora: &str, strength: f32) -> Result<()> {
        check_strength(lora, strength)?;
        let Some(number) = self.loras.iter().position(|other| other.name() == lora) else {
            let names: Vec<&str> = self.loras.iter().map(|lora| lora.name()).collect();
            return Err(Error::invalid("LoRA", lora, format!("there are {}", names.join(", "))));
        };
        let _changing = lock(&self.changing);
        let mut strengths = lock(&self.strengths).clone();
        strengths[number] = strength;
        if let Some(on_device) = self.on_device.get() {
            on_device.upload(0, &self.counts(&strengths))?;
        }
        *lock(&self.strengths) = strengths;
        Ok(())
    }

    /// The weights that a LoRA is for.
    pub(super) fn names_of<'a>(&'a self, lora: &'a str) -> impl Iterator<Item = &'a str> {
        let is_it = move |part: &Part| self.loras[part.lora].name() == lora;
        let of = self.targets.iter().filter(move |(_, target)| target.parts.iter().any(is_it));
        of.map(|(name, _)| &name[..])
    }

    /// Enqueues the patch of a weight; false when no LoRA for it counts anything.
    ///
    /// # Safety
    /// `at` holds the weight, in the formats given, and nothing but what `stream` is ordered after
    /// or before touches it.
    pub(super) unsafe fn enqueue(&self, name: &str, at: Patched, stream: &Stream) -> Result<bool> {
        let Some(target) = self.targets.get(name) else { return Ok(false) };
        let strengths = lock(&self.strengths);
        if target.parts.iter().all(|part| strengths[part.lora] == 0.0) {
            return Ok(false);
        }
        drop(strengths);
        if target.rows * target.columns != at.count {
            let expected =
                format!("a patch of {} x {} is for all of it", target.rows, target.columns);
            return Err(Error::invalid("part of a weight", name, expected));
        }
        let Some(OnDevice { buffer, .. }) = self.on_device.get() else {
            let expected = "their factors are not on the device yet: call Arrival::settle first";
            return Err(Error::invalid("LoRAs for", name, expected));
        };
        let kernel = Kernel::Patch {
            src: at.src,
            dst: at.dst,
            rows: target.rows,
            columns: target.columns,
            from: at.formats[0],
            to: at.formats[1],
            up: buffer.ptr().offset(target.up_at),
            down: buffer.ptr().offset(target.down_at),
            scales: buffer.ptr().offset(4 * target.scales_at as u64),
            rank: target.rank,
            factors: target.factors,
            saturate: at.saturate,
        };
        buffer.in_order(stream, || {
            // SAFETY: the weight is the caller's promise. The factors lie in the buffer, which
            // orders the stream after their upload, later uploads after this, and its end too.
            Ok(unsafe { stream.device().driver().launch(stream.id(), &kernel) }?)
        })?;
        Ok(true)
    }
}

impl OnDevice {
    /// Copies `bytes` to `offset` in the buffer. Blocks.
    fn upload(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        for (number, part) in bytes.chunks(UPLOAD_BYTES).enumerate() {
            let mut block = self.pinned.alloc(part.len())?;
            block.copy_from_slice(part);
            let at = offset + (number * UPLOAD_BYTES) as u64;
            self.transfer.upload(block, &self.buffer, at)?.wait()?;
        }
        Ok(())
    }
}

fn check_strength(lora: &str, strength: f32) -> Result<()> {
    match strength.is_finite() {
        true => Ok(()),
        false => Err(Error::invalid(format!("strength of {lora}"), strength, "it must be finite")),
    }
}

/// Refuses a LoRA of which nothing is for the model; tells of one of which something is not: parts
/// for components that the model is without are common.
fn report_unknown(lora: &Lora, model: &Model, unknown: &[&str]) -> Result<()> {
    if unknown.is_empty() {
        return Ok(());
    }
    let shown = unknown.iter().take(4).copied().collect::<Vec<_>>().join(", ");
    if unknown.len() == lora.pairs.len() {
        let first = model.tensors().first().map_or("none", |tensor| &tensor.name);
        let expected = format!(
            "none of its {} modules ({shown}) is like a name of this model's tensors ({first})",
            unknown.len()
        );
        return Err(Error::invalid("LoRA", lora.name(), expected));
    }
    tracing::warn!(
        lora = lora.name(),
        modules = unknown.len(),
        of = lora.pairs.len(),
        "not for this model and left out: {shown}"
    );
    Ok(())
}
