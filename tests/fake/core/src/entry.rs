//! The way into every call: counting, faults, and what each call needs before it may run.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::Vendor;
use crate::fake::Fake;
use crate::log::Misuse;
use crate::status::{
    Answer, INVALID_CONTEXT, NOT_INITIALIZED, NOT_PERMITTED, NOT_READY, Status, UNKNOWN,
};

/// What must be there before a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing; works on a lost device too.
    Nothing,
    /// The driver was initialised.
    Init,
    /// The thread has a current context.
    Context,
}

thread_local! {
    static CALL: Cell<&'static str> = const { Cell::new("") };
    static FAKE: Cell<Option<&'static Fake>> = const { Cell::new(None) };
    static IN_HOST_FUNCTION: Cell<bool> = const { Cell::new(false) };
}

/// Runs the call `name`; gives its status.
pub fn enter(
    fake: &'static Fake,
    name: &'static str,
    need: Need,
    body: impl FnOnce(&'static Fake) -> Answer,
) -> u32 {
    let outer = (CALL.replace(name), FAKE.replace(Some(fake)));
    let answer = permit(fake, name, need).and_then(|()| {
        catch_unwind(AssertUnwindSafe(|| body(fake)))
            .unwrap_or_else(|_| Err(misuse("fake_panicked", "the fake itself is broken", UNKNOWN)))
    });
    CALL.set(outer.0);
    FAKE.set(outer.1);
    let status = answer.err().unwrap_or_default();
    if status != 0 && status != NOT_READY {
        fake.log().failed(name, status);
    }
    status
}

fn permit(fake: &'static Fake, name: &'static str, need: Need) -> Answer {
    fake.log().called(name);
    if IN_HOST_FUNCTION.get() {
        return Err(misuse(
            "call_in_host_function",
            "host functions must not call the driver",
            NOT_PERMITTED,
        ));
    }
    if need == Need::Nothing {
        return match fake.faults().strike(name) {
            Some(status) => Err(status),
            None => Ok(()),
        };
    }
    if let Some(status) = fake.lost() {
        return Err(status);
    }
    if let Some(status) = fake.faults().strike(name) {
        return Err(status);
    }
    if fake.vendor == Vendor::Hip {
        // It starts by itself.
        fake.start_hip()?;
    } else if !fake.is_started() {
        return Err(misuse("not_initialized", "the driver was not initialised", NOT_INITIALIZED));
    }
    if need == Need::Context {
        fake.current().map(drop).inspect_err(|_| {
            if fake.has_no_context() {
                misuse("no_context", "the thread has no current context", INVALID_CONTEXT);
            }
        })?;
    }
    Ok(())
}

/// Writes down that the call under way was made wrongly; gives `status` back.
pub fn misuse(kind: &'static str, detail: impl Into<String>, status: Status) -> Status {
    if let Some(fake) = FAKE.get() {
        misuse_of(fake, CALL.get(), kind, detail);
    }
    status
}

/// The same of a call that is over.
pub fn misuse_of(fake: &Fake, call: &'static str, kind: &'static str, detail: impl Into<String>) {
    fake.log().misused(Misuse { call, kind, detail: detail.into() });
}

/// The call under way.
pub fn call_name() -> &'static str {
    CALL.get()
}

/// Runs a host function of the caller's.
pub fn in_host_function(work: impl FnOnce()) {
    IN_HOST_FUNCTION.set(true);
    work();
    IN_HOST_FUNCTION.set(false);
}
