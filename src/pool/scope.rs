//! Which pool a thread's requests go to. The ordinary path never asks: it finds the heap a
//! thread used last, and entering or leaving a scope makes every thread of it search again.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;

use super::allocator::Allocator;
use super::heaps;
use super::private::PrivatePool;
use crate::base::{Error, Result};

/// Until it is dropped, the thread's requests to one allocator go to a private pool. Made by
/// [`Allocator::enter_pool`].
#[derive(Debug)]
#[must_use = "the scope ends when this is dropped"]
pub struct PoolScope {
    serial: u64,
    /// It ends on the thread it began on.
    not_send: PhantomData<*const ()>,
}

struct Entered {
    serial: u64,
    pool: PrivatePool,
}

thread_local! {
    static ENTERED: RefCell<Vec<Entered>> = const { RefCell::new(Vec::new()) };
    static NEXT: Cell<u64> = const { Cell::new(0) };
}

pub(super) fn enter(allocator: &Allocator, pool: &PrivatePool) -> Result<PoolScope> {
    if pool.inner().heaps.id() != allocator.inner().heaps.id() {
        return Err(Error::invalid(
            "private pool",
            pool.id(),
            "it belongs to another allocator; enter a pool that this one made",
        ));
    }
    let serial = NEXT.replace(NEXT.get() + 1);
    ENTERED.with_borrow_mut(|entered| entered.push(Entered { serial, pool: pool.clone() }));
    heaps::forget_last();
    Ok(PoolScope { serial, not_send: PhantomData })
}

/// The pool this thread is in, of the allocator whose heaps have this id.
pub(super) fn innermost(heaps: u64) -> Option<PrivatePool> {
    ENTERED
        .try_with(|entered| {
            let entered = entered.borrow();
            let own = entered.iter().rev().find(|one| one.pool.inner().heaps.id() == heaps);
            own.map(|one| one.pool.clone())
        })
        .ok()
        .flatten()
}

impl Drop for PoolScope {
    fn drop(&mut self) {
        // Dropped after the borrow: it may be the pool's last handle.
        let _left = ENTERED.try_with(|entered| {
            let mut entered = entered.borrow_mut();
            let at = entered.iter().position(|one| one.serial == self.serial)?;
            Some(entered.remove(at))
        });
        heaps::forget_last();
    }
}
