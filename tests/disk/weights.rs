//! Models on disk for these tests, and loaders that read them back.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use riverbed::Result;
use riverbed::conf::Conf;
use riverbed::device::Device;
use riverbed::pinned::PinnedPool;
use riverbed::pool::{Allocator, Buffer};
use riverbed::transfer::{
    DiskOptions, Files, Home, LoadPlan, LoadStatus, Loader, LoaderOptions, ReadFault, Transfer,
    Urgency,
};
use riverbed::weights::{Model, Unit, UnitLayout};

use super::model_files::safetensors;
use super::streaming::{KIB, MIB, Random, host, stream};

/// Every way to read there is.
pub(crate) const WAYS: [&str; 4] =
    ["io_uring,direct=auto", "io_uring,direct=off", "threads,direct=auto", "threads,direct=off"];

/// A model of one file with random bytes.
pub(crate) struct Weights {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) path: PathBuf,
    pub(crate) model: Model,
    pub(crate) tensors: Vec<Vec<u8>>,
}

impl Weights {
    /// Tensors of these sizes, one behind the other in a file below `place`.
    pub(crate) fn at(place: &Path, sizes: &[usize]) -> Self {
        let mut random = Random::new(sizes.iter().sum::<usize>() as u64 + 3);
        let tensors: Vec<Vec<u8>> = sizes
            .iter()
            .map(|&size| {
                let mut bytes = vec![0; size];
                for part in bytes.chunks_mut(8) {
                    part.copy_from_slice(&random.next().to_le_bytes()[..part.len()]);
                }
                bytes
            })
            .collect();
        let names: Vec<String> = (0..sizes.len()).map(|at| format!("t{at}")).collect();
        let shapes: Vec<[u64; 1]> = sizes.iter().map(|&size| [size as u64]).collect();
        let entries: Vec<_> = (0..sizes.len())
            .map(|at| (&names[at][..], "U8", &shapes[at][..], &tensors[at][..]))
            .collect();
        let directory = tempfile::tempdir_in(place).unwrap();
        let path = directory.path().join("model.safetensors");
        std::fs::write(&path, safetensors(&entries)).unwrap();
        let model = Model::open(&path).unwrap();
        Self { directory, path, model, tensors }
    }

    /// On a disk.
    pub(crate) fn new(sizes: &[usize]) -> Self {
        Self::at(&std::env::temp_dir(), sizes)
    }

    /// Sees to it that nothing of the file is in the page cache.
    pub(crate) fn make_cold(&self) {
        let file = std::fs::File::open(&self.path).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }

    /// Some tensors packed as one unit.
    pub(crate) fn layout(&self, tensors: &[usize]) -> UnitLayout {
        let bytes = tensors.iter().map(|&at| self.tensors[at].len() as u64).sum();
        let unit = Unit { name: "unit".into(), tensors: tensors.to_vec(), bytes };
        UnitLayout::new(&self.model, &unit).unwrap()
    }

    pub(crate) fn whole(&self) -> UnitLayout {
        self.layout(&(0..self.tensors.len()).collect::<Vec<_>>())
    }

    /// Where a tensor begins in the file.
    pub(crate) fn offset(&self, tensor: usize) -> u64 {
        self.model.tensors()[tensor].offset_bytes
    }

    /// Asserts that `unit` has the bytes of its tensors in their places.
    #[track_caller]
    pub(crate) fn verify(&self, layout: &UnitLayout, unit: &[u8]) {
        for placed in &layout.tensors {
            let at = placed.offset_bytes as usize;
            let found = &unit[at..at + placed.len_bytes as usize];
            let wanted = &self.tensors[placed.tensor][..];
            let differs = found.iter().zip(wanted).position(|(a, b)| a != b);
            assert_eq!(differs, None, "tensor {} differs first at this byte", placed.tensor);
        }
    }
}

/// A loader on a host device, and what reads its loads back.
pub(crate) struct Rig {
    pub(crate) device: Device,
    pub(crate) pinned: PinnedPool,
    pub(crate) loader: Loader,
    allocator: Allocator,
    transfer: Transfer,
    /// What is read back goes through memory of its own.
    reads: PinnedPool,
}

impl Rig {
    pub(crate) fn new(weights: &Weights, disk: &str) -> Self {
        Self::build(weights, disk.parse().unwrap(), 128 * KIB, &[]).unwrap()
    }

    pub(crate) fn build(
        weights: &Weights,
        disk: DiskOptions,
        chunk_bytes: u64,
        faults: &[ReadFault],
    ) -> Result<Self> {
        Self::on(host(64).0, 48 * MIB, weights, disk, chunk_bytes, faults)
    }

    pub(crate) fn on(
        device: Device,
        pinned_bytes: u64,
        weights: &Weights,
        disk: DiskOptions,
        chunk_bytes: u64,
        faults: &[ReadFault],
    ) -> Result<Self> {
        let conf = Conf::default().with_pinned_limit_bytes(pinned_bytes)?;
        let pinned = PinnedPool::new(&device, &conf);
        let files = Files::open(&weights.model)?;
        faults.iter().for_each(|&fault| files.inject(fault));
        let options = LoaderOptions { chunk_bytes, slots: 3, disk, ..LoaderOptions::default() };
        let loader = Loader::new(&device, &pinned, files, options)?;
        let allocator = Allocator::builder(&device).build()?;
        let transfer = Transfer::new(&device)?;
        let reads = PinnedPool::new(&device, &"pinned_limit_mb:48".parse()?);
        Ok(Self { device, pinned, loader, allocator, transfer, reads })
    }

    pub(crate) fn buffer(&self, plan: &LoadPlan) -> Buffer<u8> {
        let len = plan.len_bytes().max(1) as usize;
        self.allocator.alloc(len, &stream(&self.device)).unwrap()
    }

    /// Loads a unit and reads it back.
    pub(crate) fn load(
        &mut self,
        plan: &Arc<LoadPlan>,
        home: Option<&Home>,
        urgency: Urgency,
    ) -> Result<Vec<u8>> {
        let buffer = self.buffer(plan);
        let status = self.loader.load_buffer(&buffer, plan, home, urgency)?;
        self.read(&buffer, &status)
    }

    /// Loads from the files.
    pub(crate) fn load_layout(&mut self, layout: &UnitLayout) -> Result<Vec<u8>> {
        let plan = self.loader.plan(layout);
        self.load(&plan, None, Urgency::Ahead)
    }

    pub(crate) fn read(&self, buffer: &Buffer<u8>, status: &LoadStatus) -> Result<Vec<u8>> {
        let bytes = self.transfer.read(buffer, &self.reads)?;
        status.check()?;
        Ok(bytes)
    }
}

/// Memory for files that need no disk, where there is one.
pub(crate) fn in_memory() -> Option<&'static Path> {
    Some(Path::new("/dev/shm")).filter(|path| path.is_dir())
}

/// A size of tensors that needs several chunks.
pub(crate) const LARGE: usize = MIB as usize + 12_345;
