//! Pointers of a C caller, told apart by what they are for. Each is one pointer wide, as the ABI
//! wants it, and null is refused rather than followed.

use std::ffi::{CStr, c_char, c_void};

use crate::entry::misuse;
use crate::status::{Answer, INVALID_VALUE};

/// Where a result goes.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    pub fn put(self, value: T) -> Answer {
        if self.0.is_null() {
            return Err(misuse("invalid_argument", "nowhere to put the result", INVALID_VALUE));
        }
        // SAFETY: the C caller promises by calling that its result pointers are valid.
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }

    /// Puts the value if the caller wants it.
    pub fn put_if_wanted(self, value: T) -> Answer {
        if self.0.is_null() { Ok(()) } else { self.put(value) }
    }
}

/// Where `len` bytes of text go, with a final zero.
pub fn put_text(at: Out<c_char>, len: i32, text: &str) -> Answer {
    let room = usize::try_from(len).unwrap_or_default();
    if at.0.is_null() || room == 0 {
        return Err(misuse("invalid_argument", "no room for the text", INVALID_VALUE));
    }
    let taken = text.len().min(room - 1);
    // SAFETY: the C caller promises `len` bytes at its pointer; at most so many are written.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr(), at.0.cast(), taken);
        at.0.add(taken).write(0);
    }
    Ok(())
}

/// A value to read and to change.
#[repr(transparent)]
pub struct InOut<T>(*mut T);

impl<T: Copy> InOut<T> {
    pub fn exchange(self, change: impl FnOnce(T) -> Answer<T>) -> Answer {
        if self.0.is_null() {
            return Err(misuse("invalid_argument", "no value to exchange", INVALID_VALUE));
        }
        // SAFETY: the C caller promises by calling that its pointers are valid.
        let old = unsafe { self.0.read_unaligned() };
        let new = change(old)?;
        // SAFETY: as above.
        unsafe { self.0.write_unaligned(new) };
        Ok(())
    }
}

/// One value, or several, to read.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct In<T>(*const T);

impl<T: Copy> In<T> {
    /// The bytes behind it, whatever they are.
    pub fn as_bytes(self) -> In<u8> {
        In(self.0.cast())
    }

    pub fn get(self) -> Answer<T> {
        Ok(self.list(1)?[0])
    }

    pub fn is_null(&self) -> bool {
        self.0.is_null()
    }

    pub fn list(self, count: usize) -> Answer<Vec<T>> {
        if self.0.is_null() {
            return Err(misuse("invalid_argument", "nothing to read", INVALID_VALUE));
        }
        // SAFETY: the C caller promises by calling that `count` values are there.
        Ok((0..count).map(|at| unsafe { self.0.add(at).read_unaligned() }).collect())
    }
}

/// Text of a C caller.
pub fn text(at: In<c_char>) -> Answer<String> {
    if at.0.is_null() {
        return Err(misuse("invalid_argument", "no text", INVALID_VALUE));
    }
    // SAFETY: the C caller promises a final zero.
    Ok(unsafe { CStr::from_ptr(at.0) }.to_string_lossy().into_owned())
}

/// The first bytes of what a caller hands over without saying how much it is.
pub fn bytes(at: In<u8>, count: usize) -> Answer<Vec<u8>> {
    at.list(count)
}

/// A value of a kind that another argument tells.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Untyped(*mut c_void);

impl Untyped {
    pub fn put<T>(self, value: T) -> Answer {
        Out(self.0.cast::<T>()).put(value)
    }

    pub fn get<T: Copy>(self) -> Answer<T> {
        In(self.0.cast::<T>().cast_const()).get()
    }

    /// The pointer, to be handed back to the caller on another thread.
    pub fn number(self) -> u64 {
        self.0 as u64
    }
}
