//! The opcodes, and their arguments read from the input.

use super::Value;

pub(super) const MARK: u8 = b'(';
pub(super) const STOP: u8 = b'.';
pub(super) const POP: u8 = b'0';
pub(super) const POP_MARK: u8 = b'1';
pub(super) const DUP: u8 = b'2';
pub(super) const PROTO: u8 = 0x80;
pub(super) const FRAME: u8 = 0x95;

pub(super) const EMPTY_LIST: u8 = b']';
pub(super) const EMPTY_TUPLE: u8 = b')';
pub(super) const EMPTY_DICT: u8 = b'}';
pub(super) const LIST: u8 = b'l';
pub(super) const TUPLE: u8 = b't';
pub(super) const TUPLE1: u8 = 0x85;
pub(super) const TUPLE2: u8 = 0x86;
pub(super) const TUPLE3: u8 = 0x87;
pub(super) const DICT: u8 = b'd';
pub(super) const APPEND: u8 = b'a';
pub(super) const APPENDS: u8 = b'e';
pub(super) const SETITEM: u8 = b's';
pub(super) const SETITEMS: u8 = b'u';

pub(super) const MEMOIZE: u8 = 0x94;
pub(super) const BINPUT: u8 = b'q';
pub(super) const LONG_BINPUT: u8 = b'r';
pub(super) const BINGET: u8 = b'h';
pub(super) const LONG_BINGET: u8 = b'j';

pub(super) const GLOBAL: u8 = b'c';
pub(super) const INST: u8 = b'i';
pub(super) const STACK_GLOBAL: u8 = 0x93;

const NONE: u8 = b'N';
const NEWTRUE: u8 = 0x88;
const NEWFALSE: u8 = 0x89;
const BININT: u8 = b'J';
const BININT1: u8 = b'K';
const BININT2: u8 = b'M';
const LONG1: u8 = 0x8a;
const LONG4: u8 = 0x8b;
const BINFLOAT: u8 = b'G';
const SHORT_BINUNICODE: u8 = 0x8c;
const BINUNICODE: u8 = b'X';
const BINUNICODE8: u8 = 0x8d;
const SHORT_BINBYTES: u8 = b'C';
const BINBYTES: u8 = b'B';
const BINBYTES8: u8 = 0x8e;
const BYTEARRAY8: u8 = 0x96;

/// The name of an opcode that is known and not carried out.
pub(super) fn refused(code: u8) -> Option<&'static str> {
    Some(match code {
        GLOBAL => "the class (GLOBAL)",
        STACK_GLOBAL => "the class (STACK_GLOBAL)",
        INST => "an object (INST)",
        b'o' => "an object (OBJ)",
        0x81 => "an object (NEWOBJ)",
        0x92 => "an object (NEWOBJ_EX)",
        b'R' => "a call (REDUCE)",
        b'b' => "an object's state (BUILD)",
        b'P' => "a persistent id (PERSID)",
        b'Q' => "a persistent id (BINPERSID)",
        0x82 => "an extension (EXT1)",
        0x83 => "an extension (EXT2)",
        0x84 => "an extension (EXT4)",
        0x8f => "a set (EMPTY_SET)",
        0x90 => "a set (ADDITEMS)",
        0x91 => "a set (FROZENSET)",
        0x97 => "a buffer outside the file (NEXT_BUFFER)",
        0x98 => "a buffer outside the file (READONLY_BUFFER)",
        b'I' | b'L' | b'F' | b'S' | b'V' | b'p' | b'g' | b'T' | b'U' => {
            "an opcode of protocols 0 and 1"
        }
        _ => return None,
    })
}

/// The bytes of a pickle not read yet.
pub(super) struct Input<'a> {
    all: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { all: bytes, rest: bytes }
    }

    /// How far the reading is.
    pub(super) fn offset(&self) -> u64 {
        (self.all.len() - self.rest.len()) as u64
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], String> {
        let left = self.rest.len();
        let split = usize::try_from(len).ok().and_then(|len| self.rest.split_at_checked(len));
        let (taken, rest) =
            split.ok_or_else(|| format!("the file ends: {len} byte(s) wanted, {left} left"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    pub(super) fn byte(&mut self) -> Result<u8, String> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    /// Up to the end of the line, without it; what there is if there is none.
    pub(super) fn line(&mut self) -> &'a [u8] {
        let end = self.rest.iter().position(|&byte| byte == b'\n');
        let (line, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest.get(1..).unwrap_or_default();
        line
    }

    /// Frames only group opcodes; one longer than the file is a file cut short.
    pub(super) fn check_frame(&mut self) -> Result<(), String> {
        let len = self.u64()?;
        let left = self.rest.len() as u64;
        if len > left {
            return Err(format!("the file ends: a frame of {len} byte(s), {left} left"));
        }
        Ok(())
    }

    /// The value that `code` stands for; `None` if it stands for none.
    pub(super) fn scalar(&mut self, code: u8) -> Result<Option<Value<'a>>, String> {
        Ok(Some(match code {
            NONE => Value::None,
            NEWTRUE => Value::Bool(true),
            NEWFALSE => Value::Bool(false),
            BININT => Value::Int(i64::from(i32::from_le_bytes(self.array()?))),
            BININT1 => Value::Int(i64::from(self.byte()?)),
            BININT2 => Value::Int(i64::from(u16::from_le_bytes(self.array()?))),
            LONG1 => {
                let len = self.byte()?;
                long(self.take(u64::from(len))?)
            }
            LONG4 => {
                let len = self.u32()?;
                long(self.take(u64::from(len))?)
            }
            BINFLOAT => Value::Float(f64::from_be_bytes(self.array()?)),
            SHORT_BINUNICODE | SHORT_BINBYTES => {
                let len = self.byte()?;
                self.text_or_bytes(code == SHORT_BINUNICODE, u64::from(len))?
            }
            BINUNICODE | BINBYTES => {
                let len = self.u32()?;
                self.text_or_bytes(code == BINUNICODE, u64::from(len))?
            }
            BINUNICODE8 | BINBYTES8 | BYTEARRAY8 => {
                let len = self.u64()?;
                self.text_or_bytes(code == BINUNICODE8, len)?
            }
            _ => return Ok(None),
        }))
    }

    fn text_or_bytes(&mut self, is_text: bool, len: u64) -> Result<Value<'a>, String> {
        let bytes = self.take(len)?;
        Ok(if is_text { Value::Text(bytes) } else { Value::Bytes(bytes) })
    }
}

/// A number in two's complement, the least significant byte first.
fn long(bytes: &[u8]) -> Value<'_> {
    let negative = bytes.last().is_some_and(|&top| top & 0x80 != 0);
    let fill = if negative { 0xff } else { 0 };
    if bytes.iter().skip(8).any(|&byte| byte != fill) {
        return Value::Huge;
    }
    let mut low = [fill; 8];
    for (to, from) in low.iter_mut().zip(bytes) {
        *to = *from;
    }
    let value = u64::from_le_bytes(low);
    match i64::try_from(value) {
        Ok(value) if !negative => Value::Int(value),
        // The sign is in a byte further up.
        Ok(_) => Value::Huge,
        Err(_) if negative => Value::Int(value as i64),
        Err(_) => Value::Unsigned(value),
    }
}
