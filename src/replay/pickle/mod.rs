//! Pickles of plain containers, protocols 2 to 5: what a memory snapshot is. Anything that would
//! name, make or call an object is refused by name, and nothing is ever executed.
//!
//! Hostile input costs at most memory in proportion to its length: every opcode adds at most one
//! value to one flat table, containers refer to each other by index and are never copied or
//! expanded, strings stay in the input, and every length is checked against what is left.

mod opcode;

use std::collections::HashMap;

use opcode::Input;

/// A value; containers are indexes into their [`Pickle`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    /// Above `i64::MAX`.
    Unsigned(u64),
    /// A number of more than 64 bits.
    Huge,
    Float(f64),
    /// Text, in Python's UTF-8 (which may hold surrogates).
    Text(&'a [u8]),
    Bytes(&'a [u8]),
    /// A list or a tuple.
    List(usize),
    Dict(usize),
}

impl Value<'_> {
    /// A number from 0 to 2^64-1. Negative ones count as their two's complement.
    pub(super) fn as_u64(self) -> Option<u64> {
        match self {
            Self::Int(value) => Some(value as u64),
            Self::Unsigned(value) => Some(value),
            Self::Float(value) if value >= 0.0 && value < u64::MAX as f64 => Some(value as u64),
            _ => None,
        }
    }
}

/// A pickle, read.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    /// Items of lists; keys and values in turns of dictionaries.
    containers: Vec<Vec<Value<'a>>>,
    /// What the pickle holds.
    pub(super) root: Value<'a>,
}

impl<'a> Pickle<'a> {
    /// Reads a whole pickle.
    ///
    /// # Errors
    /// The offset and what is wrong there, or what is refused.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, (u64, String)> {
        let mut machine = Machine {
            input: Input::new(bytes),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            containers: Vec::new(),
        };
        loop {
            let at = machine.input.offset();
            match machine.step() {
                Ok(None) => {}
                Ok(Some(root)) => return Ok(Self { containers: machine.containers, root }),
                Err(reason) => return Err((at, reason)),
            }
        }
    }

    /// The items of a list or tuple; none for anything else.
    pub(super) fn items(&self, value: Value<'a>) -> &[Value<'a>] {
        match value {
            Value::List(at) => self.containers.get(at).map_or(&[], Vec::as_slice),
            _ => &[],
        }
    }

    /// How many pairs a dictionary was given; 0 for anything else.
    pub(super) fn key_count(&self, value: Value<'a>) -> usize {
        match value {
            Value::Dict(at) => self.containers.get(at).map_or(0, |pairs| pairs.len() / 2),
            _ => 0,
        }
    }

    /// The value under `key`, the last one set.
    pub(super) fn get(&self, value: Value<'a>, key: &str) -> Option<Value<'a>> {
        let Value::Dict(at) = value else { return None };
        let mut pairs = self.containers.get(at)?.chunks_exact(2).rev();
        pairs.find(|pair| pair[0] == Value::Text(key.as_bytes())).map(|pair| pair[1])
    }
}

/// The machine a pickle is a program for.
struct Machine<'a> {
    input: Input<'a>,
    stack: Vec<Value<'a>>,
    /// Heights of the stack.
    marks: Vec<usize>,
    /// By number; numbers may have gaps as large as a file likes.
    memo: HashMap<u32, Value<'a>>,
    containers: Vec<Vec<Value<'a>>>,
}

impl<'a> Machine<'a> {
    /// One opcode; the result at the last.
    fn step(&mut self) -> Result<Option<Value<'a>>, String> {
        let code = self.input.byte()?;
        match code {
            opcode::STOP => return self.pop().map(Some),
            opcode::PROTO => match self.input.byte()? {
                2..=5 => {}
                other => return Err(format!("pickle protocol {other}; 2 to 5 are read")),
            },
            opcode::FRAME => self.input.check_frame()?,
            opcode::MARK => self.marks.push(self.stack.len()),
            opcode::POP => {
                self.pop()?;
            }
            opcode::POP_MARK => drop(self.pop_mark()?),
            opcode::DUP => {
                let top = self.top()?;
                self.stack.push(top);
            }
            opcode::MEMOIZE | opcode::BINPUT | opcode::LONG_BINPUT => {
                let number = match code {
                    opcode::MEMOIZE => self.memo.len() as u32,
                    opcode::BINPUT => u32::from(self.input.byte()?),
                    _ => self.input.u32()?,
                };
                let top = self.top()?;
                self.memo.insert(number, top);
            }
            opcode::BINGET => {
                let number = u32::from(self.input.byte()?);
                self.recall(number)?;
            }
            opcode::LONG_BINGET => {
                let number = self.input.u32()?;
                self.recall(number)?;
            }
            _ if self.container(code)? => {}
            _ => match self.input.scalar(code)? {
                Some(value) => self.stack.push(value),
                None => return Err(self.refusal(code)),
            },
        }
        Ok(None)
    }

    /// Carries `code` out if it makes or fills a container.
    fn container(&mut self, code: u8) -> Result<bool, String> {
        match code {
            opcode::EMPTY_LIST | opcode::EMPTY_TUPLE => self.push_list(Vec::new()),
            opcode::EMPTY_DICT => self.push_dict(Vec::new()),
            opcode::TUPLE | opcode::LIST => {
                let items = self.pop_mark()?;
                self.push_list(items);
            }
            opcode::TUPLE1 | opcode::TUPLE2 | opcode::TUPLE3 => {
                let count = usize::from(code - opcode::TUPLE1) + 1;
                let from = self.stack.len().checked_sub(count).filter(|&from| from >= self.floor());
                let items = self.stack.split_off(from.ok_or(SHORT)?);
                self.push_list(items);
            }
            opcode::DICT => {
                let pairs = self.pop_mark()?;
                self.push_dict(check_pairs(pairs)?);
            }
            opcode::APPEND => {
                let item = self.pop()?;
                self.list()?.push(item);
            }
            opcode::APPENDS => {
                let mut items = self.pop_mark()?;
                self.list()?.append(&mut items);
            }
            opcode::SETITEM => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.dict()?.extend([key, value]);
            }
            opcode::SETITEMS => {
                let mut pairs = check_pairs(self.pop_mark()?)?;
                self.dict()?.append(&mut pairs);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn push_list(&mut self, items: Vec<Value<'a>>) {
        self.stack.push(Value::List(self.containers.len()));
        self.containers.push(items);
    }

    fn push_dict(&mut self, pairs: Vec<Value<'a>>) {
        self.stack.push(Value::Dict(self.containers.len()));
        self.containers.push(pairs);
    }

    /// The list on top of the stack.
    fn list(&mut self) -> Result<&mut Vec<Value<'a>>, String> {
        match self.top()? {
            Value::List(at) => Ok(&mut self.containers[at]),
            _ => Err("items are added to something that is no list".into()),
        }
    }

    fn dict(&mut self) -> Result<&mut Vec<Value<'a>>, String> {
        match self.top()? {
            Value::Dict(at) => Ok(&mut self.containers[at]),
            _ => Err("pairs are added to something that is no dictionary".into()),
        }
    }

    /// Below this the stack belongs to what stands before the last mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Value<'a>, String> {
        let own = self.stack.len() > self.floor();
        self.stack.last().copied().filter(|_| own).ok_or_else(|| SHORT.into())
    }

    fn pop(&mut self) -> Result<Value<'a>, String> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    /// Everything above the last mark.
    fn pop_mark(&mut self) -> Result<Vec<Value<'a>>, String> {
        let mark = self.marks.pop().ok_or("a mark is missing")?;
        Ok(self.stack.split_off(mark))
    }

    fn recall(&mut self, number: u32) -> Result<(), String> {
        let value = self.memo.get(&number).copied();
        self.stack.push(value.ok_or_else(|| format!("memo {number} was never set"))?);
        Ok(())
    }

    /// Why `code` is not carried out.
    fn refusal(&mut self, code: u8) -> String {
        let named = match code {
            opcode::GLOBAL | opcode::INST => {
                let (module, name) = (self.input.line(), self.input.line());
                format!(" of {}.{}", text(module), text(name))
            }
            opcode::STACK_GLOBAL => match self.stack.last_chunk() {
                Some([Value::Text(module), Value::Text(name)]) => {
                    format!(" of {}.{}", text(module), text(name))
                }
                _ => String::new(),
            },
            _ => String::new(),
        };
        match opcode::refused(code) {
            Some(name) => format!(
                "{name}{named} is refused: a snapshot holds plain containers, numbers and texts only"
            ),
            None => format!("opcode {code:#04x} is none of pickle protocols 2 to 5"),
        }
    }
}

/// More is taken off the stack than lies there.
const SHORT: &str = "the stack is empty";

fn check_pairs(pairs: Vec<Value<'_>>) -> Result<Vec<Value<'_>>, String> {
    if pairs.len().is_multiple_of(2) {
        Ok(pairs)
    } else {
        Err("a dictionary has a key without a value".into())
    }
}

/// A name from the file, fit to print.
fn text(name: &[u8]) -> String {
    name[..name.len().min(80)].escape_ascii().to_string()
}
