//! Tables of a driver library's functions, each found or not: nothing is linked, and a function
//! that an older driver lacks is an error of the calls that need it, not of the program.

use libloading::os::unix::Library;

use crate::base::DeviceError;

/// What a driver call came to, when not to success. The status is a plain number: drivers newer
/// than any list of names answer with numbers no such list has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::device) struct Refusal {
    /// The driver's function, or what stands in for one.
    pub(in crate::device) symbol: &'static str,
    pub(in crate::device) status: u32,
    /// The library has no such function.
    pub(in crate::device) missing: bool,
}

impl Refusal {
    /// A refusal of our own, before the driver is asked.
    pub(in crate::device) const fn own(symbol: &'static str, status: u32) -> Self {
        Self { symbol, status, missing: false }
    }
}

/// A function of a library, where it has it. `F` is a pointer to an `extern "C"` function.
#[derive(Debug, Clone, Copy)]
pub(in crate::device) struct Symbol<F> {
    pub(in crate::device) name: &'static str,
    pub(in crate::device) function: Option<F>,
}

impl<F: Copy> Symbol<F> {
    /// Looks `name` up.
    ///
    /// # Safety
    /// The library is a vendor's driver, in which `name` is a function of type `F`, and it is
    /// never closed.
    pub(in crate::device) unsafe fn find(library: &Library, name: &'static str) -> Self {
        // SAFETY: the caller says which type the function has; the pointer is good for as long as
        // the library stays open, which is for ever.
        let found = unsafe { library.get::<F>(name.as_bytes()) };
        Self { name, function: found.ok().map(|symbol| *symbol) }
    }

    /// The function, or the refusal of every call to it.
    pub(in crate::device) fn get(&self) -> Result<F, Refusal> {
        self.function.ok_or(Refusal {
            symbol: self.name,
            status: DeviceError::NOT_SUPPORTED,
            missing: true,
        })
    }
}

/// 0 is success in both vendors' interfaces.
pub(in crate::device) fn check(symbol: &'static str, status: u32) -> Result<(), Refusal> {
    if status == 0 { Ok(()) } else { Err(Refusal { symbol, status, missing: false }) }
}

/// Declares a table: for each function the name of its method, its arguments, its symbol by
/// vendor, and what is lost without it.
macro_rules! symbols {
    ($(#[$doc:meta])* $table:ident:
     $($method:ident($($argument:ident: $type:ty),* $(,)?) $names:tt $part:ident;)+) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub(in crate::device) struct $table {
            $($method: $crate::device::gpu::symbols::Symbol<
                unsafe extern "C" fn($($type),*) -> u32
            >,)+
        }

        impl $table {
            /// Looks every function up under the names of column `vendor`.
            ///
            /// # Safety
            /// The library is that vendor's driver and is never closed.
            pub(in crate::device) unsafe fn find(
                library: &libloading::os::unix::Library,
                vendor: usize,
            ) -> Self {
                Self {
                    $($method: {
                        // SAFETY: the vendor's interface gives the function these arguments and
                        // an integer status.
                        unsafe {
                            $crate::device::gpu::symbols::Symbol::find(library, $names[vendor])
                        }
                    },)+
                }
            }

            /// The functions the library lacks, with what is lost.
            pub(in crate::device) fn missing(
                &self,
            ) -> Vec<(&'static str, $crate::device::gpu::calls::Part)> {
                let mut missing = Vec::new();
                $(if self.$method.function.is_none() {
                    missing.push((
                        self.$method.name,
                        $crate::device::gpu::calls::Part::$part,
                    ));
                })+
                missing
            }

            $(
                /// Calls the driver's function.
                ///
                /// # Safety
                /// As the vendor's interface says: pointers are to live values of their types,
                /// handles are live, and memory is not in use where the call ends its life.
                #[allow(clippy::too_many_arguments, reason = "the drivers' own")]
                pub(in crate::device) unsafe fn $method(
                    &self,
                    $($argument: $type),*
                ) -> Result<(), $crate::device::gpu::symbols::Refusal> {
                    let function = self.$method.get()?;
                    // SAFETY: the caller's.
                    let status = unsafe { function($($argument),*) };
                    $crate::device::gpu::symbols::check(self.$method.name, status)
                }
            )+
        }
    };
}

pub(in crate::device) use symbols;
