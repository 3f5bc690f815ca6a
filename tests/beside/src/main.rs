//! Riverbed beside other crates in one program. It is checked, not run: linked, it would need
//! CUDA's libraries, as every program with candle's `cuda` feature does.

use candle_core::Tensor;
use cudarc::driver::sys::CUdeviceptr;
use riverbed::device::{Device, DevicePtr, Priority, Stream};
use riverbed::pool::Allocator;

/// Riverbed's address as cudarc's: both are the driver's own.
fn for_cudarc(at: DevicePtr) -> CUdeviceptr {
    at.0
}

/// Riverbed's address as HIP's.
fn for_hip(at: DevicePtr) -> cubecl_hip_sys::hipDeviceptr_t {
    std::ptr::without_provenance_mut(at.0 as usize)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::open("host")?;
    let allocator = Allocator::builder(&device).build()?;
    let stream = Stream::new(&device, Priority::Normal)?;
    let buffer = allocator.alloc::<f32>(1 << 20, &stream)?;
    println!("{:#x} {:p}", for_cudarc(buffer.ptr()), for_hip(buffer.ptr()));

    let tensor = Tensor::zeros(4, candle_core::DType::F32, &candle_core::Device::Cpu)?;
    println!("{tensor}");
    let status = cubecl_hip_sys::hipError_t_hipSuccess;
    println!("{status} {}", cubecl_hip_sys::is_available());
    Ok(())
}
