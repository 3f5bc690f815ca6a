//! The device code as far as it can be known without a GPU: the reference of the casts against
//! other people's, and the products in `kernels/gen/` against their sources. That the code does
//! what the references say is tested beside it, in `src/device/kernel/emulated.rs`.

mod casts;
#[path = "../support/elf.rs"]
mod elf;
mod products;
