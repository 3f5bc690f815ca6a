//! What a row of the option table says, and the macro that turns rows into the [`Settings`]
//! fields, their defaults and the table itself.
//!
//! [`Settings`]: super::Settings

use std::fmt;

use serde::Serialize;

use super::table::Settings;
use super::tokens::Raw;

/// Who reads an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum HonouredBy {
    /// PyTorch's native device allocator; here, the policies that place blocks themselves.
    Native,
    /// PyTorch's cudaMallocAsync backend; here, the policy `mempool`.
    Mempool,
    /// The pinned host pool.
    Pinned,
    /// The driver's pool for the whole process.
    ProcessPool,
    /// Riverbed alone; PyTorch refuses the key.
    Riverbed,
}

impl fmt::Display for HonouredBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Mempool => "mempool",
            Self::Pinned => "pinned",
            Self::ProcessPool => "process pool",
            Self::Riverbed => "Riverbed only",
        })
    }
}

/// Whether Riverbed acts on an option today.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "why")]
#[non_exhaustive]
pub enum Status {
    /// It does what the help says.
    Effective,
    /// It has nothing to do: what it asks for always holds, for this reason.
    ByDesign(&'static str),
    /// It is read, checked and kept, and changes nothing yet; this is the state of affairs.
    NotYet(&'static str),
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Effective => f.write_str("effective"),
            Self::ByDesign(why) => write!(f, "by design: {why}"),
            Self::NotYet(why) => write!(f, "not yet: {why}"),
        }
    }
}

/// One row of the option table.
#[derive(Debug)]
#[non_exhaustive]
pub struct OptionSpec {
    /// The key, as printed.
    pub key: &'static str,
    /// Other spellings that are read.
    pub aliases: &'static [&'static str],
    /// One line on what it does.
    pub help: &'static str,
    /// Who reads it.
    pub honoured_by: &'static [HonouredBy],
    /// Whether Riverbed acts on it today.
    pub status: Status,
    pub(super) access: Access,
}

/// How a row reaches its field of [`Settings`].
#[derive(Debug)]
pub(super) struct Access {
    pub(super) type_name: fn() -> &'static str,
    pub(super) allowed: fn() -> String,
    pub(super) read: fn(&mut Settings, &Raw<'_>) -> Result<(), String>,
    pub(super) write: fn(&Settings) -> String,
    pub(super) check: fn(&Settings) -> Result<(), String>,
    pub(super) copy: fn(from: &Settings, to: &mut Settings),
}

impl OptionSpec {
    /// The kind of value it takes.
    #[must_use]
    pub fn value_type(&self) -> &'static str {
        (self.access.type_name)()
    }

    /// The values it accepts, in words.
    #[must_use]
    pub fn allowed(&self) -> String {
        (self.access.allowed)()
    }

    /// Its default, as the key's value is written, or a word such as `unlimited`.
    #[must_use]
    pub fn default_text(&self) -> String {
        (self.access.write)(&Settings::default())
    }
}

/// One row: `/// help`, `"key" [aliases] field: type = default`, then the form of the value,
/// who honours it and its status.
macro_rules! options {
    ($(
        $(#[doc = $help:literal])+
        $key:literal [$($alias:literal),*] $field:ident: $type:ty = $default:expr;
        form: $form:expr; by: [$($by:ident),+]; status: $status:expr;
    )+) => {
        /// The value in force of every option, sizes in bytes. Read through
        /// [`Conf`](super::Conf), which keeps them valid.
        #[derive(Debug, Clone, PartialEq)]
        #[non_exhaustive]
        pub struct Settings {
            $($(#[doc = $help])+ #[doc = concat!("\n\nKey: `", $key, "`.")] pub $field: $type,)+
        }

        impl Default for Settings {
            fn default() -> Self {
                Self { $($field: $default),+ }
            }
        }

        pub(super) static OPTIONS: [OptionSpec; [$($key),+].len()] = [$(OptionSpec {
            key: $key,
            aliases: &[$($alias),*],
            help: concat!($($help),+).trim_ascii_start(),
            honoured_by: &[$(HonouredBy::$by),+],
            status: $status,
            access: Access {
                type_name: || $form.type_name(),
                allowed: || $form.allowed(),
                read: |settings, raw| {
                    settings.$field = $form.read(raw)?;
                    Ok(())
                },
                write: |settings| $form.write(&settings.$field),
                check: |settings| $form.check(&settings.$field, settings),
                copy: |from, to| to.$field.clone_from(&from.$field),
            },
        }),+];
    };
}
pub(super) use options;
