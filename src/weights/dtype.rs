//! Element types: every one that safetensors 0.8 and ggml know, with the block each is stored
//! in. One table, so that a name, a size and a ggml number cannot drift apart. Converting
//! between types is not here: bytes are only counted.

use std::fmt;

/// Declares the enum and its facts from one table:
/// `Variant "name" elements/bytes` per block, and the ggml number where ggml has the type.
macro_rules! dtypes {
    ($($variant:ident $name:literal $elements:literal / $bytes:literal $(ggml $id:literal)?,)*) => {
        /// How a tensor's elements are stored. Types of whole bytes are blocks of one element.
        #[allow(non_camel_case_types)] // The names the formats use: `Q4_K`, `F8_E4M3`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Dtype {
            $(#[doc = concat!("`", $name, "`: blocks of ", $elements, " element(s) in ", $bytes, " byte(s).")]
            $variant,)*
        }

        impl Dtype {
            /// Every type, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The usual name, as the formats spell it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Elements in one block; a row of a ggml tensor is whole blocks.
            #[must_use]
            pub const fn block_elements(self) -> u64 {
                match self { $(Self::$variant => $elements,)* }
            }

            /// Bytes of one block.
            #[must_use]
            pub const fn block_bytes(self) -> u64 {
                match self { $(Self::$variant => $bytes,)* }
            }

            /// The type behind a ggml type number; `None` for numbers ggml never gave out,
            /// or took back (4, 5, 31 to 33, 36 to 38).
            #[must_use]
            pub const fn from_ggml(id: u32) -> Option<Self> {
                match id { $($($id => Some(Self::$variant),)?)* _ => None }
            }
        }
    };
}

dtypes! {
    F64 "F64" 1/8 ggml 28,
    F32 "F32" 1/4 ggml 0,
    F16 "F16" 1/2 ggml 1,
    BF16 "BF16" 1/2 ggml 30,
    I64 "I64" 1/8 ggml 27,
    I32 "I32" 1/4 ggml 26,
    I16 "I16" 1/2 ggml 25,
    I8 "I8" 1/1 ggml 24,
    // safetensors only.
    U64 "U64" 1/8,
    U32 "U32" 1/4,
    U16 "U16" 1/2,
    U8 "U8" 1/1,
    Bool "BOOL" 1/1,
    C64 "C64" 1/8,
    F8_E4M3 "F8_E4M3" 1/1,
    F8_E5M2 "F8_E5M2" 1/1,
    F8_E8M0 "F8_E8M0" 1/1,
    F8_E4M3FNUZ "F8_E4M3FNUZ" 1/1,
    F8_E5M2FNUZ "F8_E5M2FNUZ" 1/1,
    F6_E2M3 "F6_E2M3" 4/3,
    F6_E3M2 "F6_E3M2" 4/3,
    F4 "F4" 2/1,
    // ggml only. Sizes are those of ggml's C structs; Q8_1 keeps two halves, so 36 and not 40.
    Q4_0 "Q4_0" 32/18 ggml 2,
    Q4_1 "Q4_1" 32/20 ggml 3,
    Q5_0 "Q5_0" 32/22 ggml 6,
    Q5_1 "Q5_1" 32/24 ggml 7,
    Q8_0 "Q8_0" 32/34 ggml 8,
    Q8_1 "Q8_1" 32/36 ggml 9,
    Q2_K "Q2_K" 256/84 ggml 10,
    Q3_K "Q3_K" 256/110 ggml 11,
    Q4_K "Q4_K" 256/144 ggml 12,
    Q5_K "Q5_K" 256/176 ggml 13,
    Q6_K "Q6_K" 256/210 ggml 14,
    Q8_K "Q8_K" 256/292 ggml 15,
    IQ2_XXS "IQ2_XXS" 256/66 ggml 16,
    IQ2_XS "IQ2_XS" 256/74 ggml 17,
    IQ3_XXS "IQ3_XXS" 256/98 ggml 18,
    IQ1_S "IQ1_S" 256/50 ggml 19,
    IQ4_NL "IQ4_NL" 32/18 ggml 20,
    IQ3_S "IQ3_S" 256/110 ggml 21,
    IQ2_S "IQ2_S" 256/82 ggml 22,
    IQ4_XS "IQ4_XS" 256/136 ggml 23,
    IQ1_M "IQ1_M" 256/56 ggml 29,
    TQ1_0 "TQ1_0" 256/54 ggml 34,
    TQ2_0 "TQ2_0" 256/66 ggml 35,
    MXFP4 "MXFP4" 32/17 ggml 39,
    NVFP4 "NVFP4" 64/36 ggml 40,
}

impl Dtype {
    /// Bytes of `elements` elements; `None` when they are not whole blocks, or on overflow.
    ///
    /// ```
    /// use riverbed::weights::Dtype;
    /// assert_eq!(Dtype::Q4_1.bytes_for(64), Some(40));
    /// assert_eq!(Dtype::Q4_1.bytes_for(33), None);
    /// ```
    #[must_use]
    pub const fn bytes_for(self, elements: u64) -> Option<u64> {
        if !elements.is_multiple_of(self.block_elements()) {
            return None;
        }
        (elements / self.block_elements()).checked_mul(self.block_bytes())
    }

    /// The type behind a safetensors type; `None` for one newer than this table.
    pub(super) fn from_safetensors(dtype: ::safetensors::Dtype) -> Option<Self> {
        let name = dtype.to_string();
        Self::ALL.iter().copied().find(|known| known.name() == name)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_safetensors_type_maps_to_one_of_the_same_size() {
        use ::safetensors::Dtype as Theirs;
        let theirs = [
            Theirs::BOOL,
            Theirs::F4,
            Theirs::F6_E2M3,
            Theirs::F6_E3M2,
            Theirs::U8,
            Theirs::I8,
            Theirs::F8_E5M2,
            Theirs::F8_E4M3,
            Theirs::F8_E8M0,
            Theirs::F8_E4M3FNUZ,
            Theirs::F8_E5M2FNUZ,
            Theirs::I16,
            Theirs::U16,
            Theirs::F16,
            Theirs::BF16,
            Theirs::I32,
            Theirs::U32,
            Theirs::F32,
            Theirs::C64,
            Theirs::F64,
            Theirs::I64,
            Theirs::U64,
        ];
        for dtype in theirs {
            let ours = Dtype::from_safetensors(dtype).unwrap();
            assert_eq!(ours.bytes_for(24), Some(3 * dtype.bitsize() as u64), "{ours}");
        }
    }

    #[test]
    fn ggml_numbers_and_sizes_are_ggmls() {
        for (id, name, elements, bytes) in [
            (0, "F32", 1, 4),
            (1, "F16", 1, 2),
            (3, "Q4_1", 32, 20),
            (8, "Q8_0", 32, 34),
            (12, "Q4_K", 256, 144),
            (14, "Q6_K", 256, 210),
            (30, "BF16", 1, 2),
            (39, "MXFP4", 32, 17),
        ] {
            let dtype = Dtype::from_ggml(id).unwrap();
            assert_eq!(
                (dtype.name(), dtype.block_elements(), dtype.block_bytes()),
                (name, elements, bytes)
            );
        }
        for gone in [4, 5, 31, 32, 33, 36, 37, 38, 41, 255, u32::MAX] {
            assert_eq!(Dtype::from_ggml(gone), None, "{gone}");
        }
    }

    #[test]
    fn sizes_never_wrap() {
        assert_eq!(Dtype::F64.bytes_for(u64::MAX), None);
        assert_eq!(Dtype::F4.bytes_for(3), None);
        assert_eq!(Dtype::F4.bytes_for(0), Some(0));
        assert_eq!(Dtype::F6_E2M3.bytes_for(8), Some(6));
        assert_eq!(format!("{:>6}", Dtype::Q4_1), "  Q4_1");
    }
}
