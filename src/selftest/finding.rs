//! What a check found wrong.

use std::fmt;

use crate::base::{DeviceError, Error};

/// Why a check failed: a sentence, and the driver's error where a call failed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// What was found, for people.
    pub text: String,
    /// The call of the device contract that failed, if one did.
    pub call: Option<&'static str>,
    /// The driver's own number for it.
    pub status: Option<u32>,
}

impl Finding {
    pub(super) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), call: None, status: None }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<DeviceError> for Finding {
    fn from(error: DeviceError) -> Self {
        Self { text: error.to_string(), call: Some(error.call), status: Some(error.status) }
    }
}

impl From<Error> for Finding {
    fn from(error: Error) -> Self {
        match error {
            Error::Device(error) => error.into(),
            error => Self::new(error.to_string()),
        }
    }
}

/// Ends a check with a finding unless `result` is the refusal with this status.
pub(super) fn refused<T: fmt::Debug>(
    result: Result<T, Finding>,
    status: u32,
    what: &str,
) -> Result<(), Finding> {
    match result {
        Err(finding) if finding.status == Some(status) => Ok(()),
        Err(finding) => {
            let text = format!("{what} is not refused with {status}: {finding}");
            Err(Finding { text, ..finding })
        }
        Ok(given) => Err(Finding::new(format!("{what} is not refused: {given:?} was given"))),
    }
}

/// Ends a check with a finding unless the condition holds.
macro_rules! ensure {
    ($condition:expr $(,)?) => {
        $crate::selftest::finding::ensure!($condition, "not so: {}", stringify!($condition))
    };
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            let place = concat!(" (", file!(), ":", line!(), ")");
            return Err($crate::selftest::Finding::new(format!($($text)+) + place));
        }
    };
}

pub(super) use ensure;
