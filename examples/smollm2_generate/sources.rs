//! Where the weights are while a layer runs: in memory, in a lease, or just read from the file.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use candle_core::Device::Cpu;
use candle_core::quantized::gguf_file::Content;
use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{Module, Tensor};
use riverbed::device::{Device, Priority, Stream};
use riverbed::modes::{Card, Mode};
use riverbed::offload::{
    ComponentWeights, DescribeOptions, DescribedJob, OffloadOptions, Offloaded, UnitLease,
};
use riverbed::plan::{Budgets, DeviceRates, Plan, plan};
use riverbed::weights::Dtype;

use crate::llama::Layer;
use crate::{Options, Result};

/// The model's table of embeddings, which is its head too.
const TABLE: &str = "token_embd.weight";
/// Rows of the head that are multiplied at once.
const ROWS: usize = 4096;

/// A tensor outside the layers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    OutputNorm,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::OutputNorm => "output_norm.weight",
        }
    }
}

/// Gives weights for as long as they are computed with.
pub(crate) trait Weights {
    /// The rows of the table for these tokens.
    fn embed(&mut self, tokens: &[u32]) -> Result<Tensor>;
    /// Runs `run` with a layer's weights.
    fn layer(
        &mut self,
        number: usize,
        epsilon: f64,
        run: &mut dyn FnMut(&Layer) -> Result<()>,
    ) -> Result<()>;
    /// A tensor outside the layers.
    fn part(&mut self, part: Part) -> Result<QTensor>;
    /// Multiplies with the table.
    fn head(&mut self, hidden: &Tensor) -> Result<Tensor>;
    /// The pass is over.
    fn end_pass(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Some rows of a quantised matrix of `columns`.
struct Rows<'a> {
    bytes: &'a [u8],
    dtype: GgmlDType,
    columns: usize,
}

impl Rows<'_> {
    fn row_bytes(&self) -> usize {
        self.columns / self.dtype.block_size() * self.dtype.type_size()
    }

    /// The rows of these numbers, in full precision.
    fn embed(&self, tokens: &[u32]) -> Result<Tensor> {
        let mut bytes = Vec::new();
        for &token in tokens {
            let start = token as usize * self.row_bytes();
            let row = self.bytes.get(start..start + self.row_bytes());
            bytes.extend_from_slice(row.ok_or("a token is not in the table")?);
        }
        let rows = quantised(&bytes, self.dtype, &[tokens.len(), self.columns])?;
        Ok(rows.dequantize(&Cpu)?)
    }

    /// `hidden` times all rows, some at a time.
    fn multiply(&self, hidden: &Tensor) -> Result<Tensor> {
        let parts = self.bytes.chunks(ROWS * self.row_bytes()).map(|bytes| -> Result<Tensor> {
            let rows = bytes.len() / self.row_bytes();
            let matrix = quantised(bytes, self.dtype, &[rows, self.columns])?;
            Ok(QMatMul::from_qtensor(matrix)?.forward(hidden)?)
        });
        let parts = parts.collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&parts, 1)?)
    }
}

/// Bytes as candle has them. This copies: candle's tensors own their memory.
fn quantised(bytes: &[u8], dtype: GgmlDType, shape: &[usize]) -> Result<QTensor> {
    let storage = QStorage::from_data(Cow::Borrowed(bytes), &Cpu, dtype)?;
    Ok(QTensor::new(storage, shape)?)
}

/// Everything in memory.
pub(crate) struct InMemory {
    content: Content,
    file: File,
    layers: Vec<Layer>,
    table: QTensor,
}

impl InMemory {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path)?;
        let content = Content::read(&mut file)?;
        let table = content.tensor(&mut file, TABLE, &Cpu)?;
        Ok(Self { content, file, layers: Vec::new(), table })
    }
}

impl Weights for InMemory {
    fn embed(&mut self, tokens: &[u32]) -> Result<Tensor> {
        with_rows(&self.table, |rows| rows.embed(tokens))
    }

    fn layer(
        &mut self,
        number: usize,
        epsilon: f64,
        run: &mut dyn FnMut(&Layer) -> Result<()>,
    ) -> Result<()> {
        if self.layers.len() <= number {
            self.layers.push(read_layer(&self.content, &self.file, number, epsilon)?);
        }
        run(&self.layers[number])
    }

    fn part(&mut self, part: Part) -> Result<QTensor> {
        Ok(self.content.tensor(&mut self.file, part.name(), &Cpu)?)
    }

    fn head(&mut self, hidden: &Tensor) -> Result<Tensor> {
        with_rows(&self.table, |rows| rows.multiply(hidden))
    }
}

/// Each layer is read when it is needed and dropped behind it.
pub(crate) struct Naive {
    content: Content,
    file: File,
}

impl Naive {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut file = File::open(path)?;
        Ok(Self { content: Content::read(&mut file)?, file })
    }

    fn table(&mut self) -> Result<QTensor> {
        Ok(self.content.tensor(&mut self.file, TABLE, &Cpu)?)
    }
}

impl Weights for Naive {
    fn embed(&mut self, tokens: &[u32]) -> Result<Tensor> {
        with_rows(&self.table()?, |rows| rows.embed(tokens))
    }

    fn layer(
        &mut self,
        number: usize,
        epsilon: f64,
        run: &mut dyn FnMut(&Layer) -> Result<()>,
    ) -> Result<()> {
        run(&read_layer(&self.content, &self.file, number, epsilon)?)
    }

    fn part(&mut self, part: Part) -> Result<QTensor> {
        Ok(self.content.tensor(&mut self.file, part.name(), &Cpu)?)
    }

    fn head(&mut self, hidden: &Tensor) -> Result<Tensor> {
        with_rows(&self.table()?, |rows| rows.multiply(hidden))
    }
}

fn read_layer(content: &Content, file: &File, number: usize, epsilon: f64) -> Result<Layer> {
    Layer::new(epsilon, |name| {
        let mut file = file;
        Ok(content.tensor(&mut file, &format!("blk.{number}.{name}"), &Cpu)?)
    })
}

fn with_rows<T>(table: &QTensor, run: impl FnOnce(&Rows<'_>) -> Result<T>) -> Result<T> {
    let (_, columns) = table.shape().dims2()?;
    run(&Rows { bytes: &table.data()?, dtype: table.dtype(), columns })
}

/// Weights leased from a plan that keeps a limit.
pub(crate) struct Streamed {
    offloaded: Offloaded,
    plan: Plan,
    /// By name of a layer or a tensor outside the layers, the units that hold it.
    units: HashMap<String, Vec<usize>>,
    stream: Stream,
}

impl Streamed {
    pub(crate) fn open(file: &Path, options: &Options) -> Result<Self> {
        let device = Device::open(&options.device)?;
        // From the header alone: what the units are, and what a plan makes of them.
        let passes = u32::try_from(options.tokens)?;
        let described = DescribedJob::open(file, None, Some(passes), &DescribeOptions::default())?;
        let preset = Mode::parse(&options.mode)?.preset(&Card::of(options.vram));
        let page_bytes = device.info().granularity_bytes;
        let budgets = Budgets { page_bytes, ..Budgets::of_vram(options.vram) };
        let plan = plan(&described.job, &rates(), &budgets, &preset.rules)?;
        let weights = ComponentWeights::of_job(&described)?;
        let offloaded = plan.load(&device, &weights, OffloadOptions::default())?;
        let mut units: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, planned) in plan.phases[0].plan.units.iter().enumerate() {
            // A mode may have made groups of layers, or of each tensor a unit.
            for unit in &described.job.components[0].units[planned.made_of.units.clone()] {
                units.entry(unit.name.clone()).or_default().push(at);
            }
        }
        let stream = Stream::new(&device, Priority::Normal)?;
        Ok(Self { offloaded, plan, units, stream })
    }

    pub(crate) fn mode(&self) -> &str {
        &self.plan.rules.mode
    }

    /// Why the plan is as it is.
    pub(crate) fn describe(&self) -> String {
        self.plan.reasons.join("\n")
    }

    /// The most device memory that was taken.
    pub(crate) fn peak(&self) -> u64 {
        self.offloaded.allocator().stats().reserved_bytes.all.peak
    }

    /// Runs `run` with a way to the leased bytes of a layer's tensors, or of one tensor.
    fn with<T>(
        &self,
        unit: &str,
        run: impl for<'a> FnOnce(&(dyn Fn(&str) -> Result<Leased<'a>> + 'a)) -> Result<T>,
    ) -> Result<T> {
        let units = self.units.get(unit).ok_or_else(|| format!("the model has no {unit}"))?;
        let leases = units.iter().map(|&unit| self.offloaded.acquire(unit, &self.stream));
        let leases = leases.collect::<Result<Vec<_>, _>>()?;
        // On a GPU the layer's kernels would be enqueued here, and the leases make the stream wait
        // for their copies. candle's CPU kernels are on no stream: `wait_host` waits for them.
        let views = leases.iter().map(UnitLease::wait_host).collect::<Result<Vec<_>, _>>()?;
        let find = |name: &str| {
            let mut held = leases.iter().zip(&views);
            let found = held.find_map(|(lease, view)| Some((lease.tensor(name).ok()?, view)));
            let (tensor, view) = found.ok_or_else(|| format!("{unit} has no {name}"))?;
            let shape = tensor.shape.iter().map(|&len| len as usize).collect();
            Ok(Leased { bytes: view.bytes(name)?, dtype: ggml(tensor.dtype)?, shape })
        };
        run(&find)
        // Here the leases end, and their room is free for layers further on.
    }
}

/// A tensor's bytes in a lease.
struct Leased<'a> {
    bytes: &'a [u8],
    dtype: GgmlDType,
    shape: Vec<usize>,
}

impl Leased<'_> {
    fn to_candle(&self) -> Result<QTensor> {
        quantised(self.bytes, self.dtype, &self.shape)
    }

    fn rows(&self) -> Result<Rows<'_>> {
        let &[_, columns] = self.shape.as_slice() else { return Err("not a matrix".into()) };
        Ok(Rows { bytes: self.bytes, dtype: self.dtype, columns })
    }
}

impl Weights for Streamed {
    fn embed(&mut self, tokens: &[u32]) -> Result<Tensor> {
        self.with(TABLE, |tensor| tensor(TABLE)?.rows()?.embed(tokens))
    }

    fn layer(
        &mut self,
        number: usize,
        epsilon: f64,
        run: &mut dyn FnMut(&Layer) -> Result<()>,
    ) -> Result<()> {
        let layer = format!("blk.{number}");
        self.with(&layer, |tensor| {
            let weights =
                Layer::new(epsilon, |name| tensor(&format!("{layer}.{name}"))?.to_candle())?;
            run(&weights)
        })
    }

    fn part(&mut self, part: Part) -> Result<QTensor> {
        self.with(part.name(), |tensor| tensor(part.name())?.to_candle())
    }

    fn head(&mut self, hidden: &Tensor) -> Result<Tensor> {
        self.with(TABLE, |tensor| tensor(TABLE)?.rows()?.multiply(hidden))
    }

    fn end_pass(&mut self) -> Result<()> {
        self.offloaded.finish_pass(&self.stream)?.into_result()?;
        Ok(())
    }
}

/// What two cores copy and compute, in figures of one digit: enough to say what is worth keeping.
fn rates() -> DeviceRates {
    DeviceRates::of_link(8e9, 2e10)
}

/// candle's name of a block format.
fn ggml(dtype: Dtype) -> Result<GgmlDType> {
    Ok(match dtype {
        Dtype::F32 => GgmlDType::F32,
        Dtype::F16 => GgmlDType::F16,
        Dtype::Q4_0 => GgmlDType::Q4_0,
        Dtype::Q4_1 => GgmlDType::Q4_1,
        Dtype::Q8_0 => GgmlDType::Q8_0,
        other => return Err(format!("{} is not used by this model", other.name()).into()),
    })
}
