//! How the end of a copy is told: by waiting, as a future, to a function; and what a copy that
//! is cancelled leaves behind.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use riverbed::Error;
use riverbed::device::Gate;

use crate::streaming::{ends, eventually};
use crate::{CHUNK, bench, bench_with, by_caller, pattern};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The smallest runtime there is.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        std::thread::park();
    }
}

#[test]
fn a_copy_is_a_future_on_any_runtime() {
    ends(|| {
        let bench = bench();
        for len in [0, 99, 2 * CHUNK, 30 * CHUNK] {
            let (bytes, buffer) = (pattern(1, len), bench.buffer(len));
            let both = async {
                bench.transfer.upload(bench.block(&bytes), &buffer, 0).unwrap().await.unwrap();
                let back = bench.pinned.alloc(len).unwrap();
                bench.transfer.download(&buffer, 0, back).unwrap().await.unwrap()
            };
            assert!(block_on(both)[..] == bytes[..], "{len}");
        }
        bench.is_clean();
    });
}

#[test]
fn a_function_is_given_the_block_on_another_thread() {
    ends(|| {
        let bench = bench();
        for len in [99, 2 * CHUNK, 30 * CHUNK] {
            let gate = Gate::new(&bench.device).unwrap();
            let (bytes, buffer) = (pattern(2, len), bench.buffer(len));
            bench.stream.wait_gate(&gate, 1).unwrap();
            let (sender, receiver) = channel();
            let pending = bench.transfer.upload(bench.block(&bytes), &buffer, 0).unwrap();
            pending
                .on_done(move |block| sender.send((block, std::thread::current().id())).unwrap())
                .unwrap();
            gate.open(1).unwrap();
            let (block, thread) = receiver.recv().unwrap();
            assert!(block.unwrap()[..] == bytes[..]);
            assert_ne!(thread, std::thread::current().id());
        }
    });
}

#[test]
fn a_function_that_panics_holds_up_nobody() {
    ends(|| {
        let bench = bench();
        let (bytes, buffer) = (pattern(3, 30 * CHUNK), bench.buffer(30 * CHUNK));
        let upload = || bench.transfer.upload(bench.block(&bytes), &buffer, 0).unwrap();
        upload().on_done(|_| panic!("on purpose")).unwrap();
        upload().wait().unwrap();
    });
}

#[test]
fn who_drives_is_who_calls_the_function() {
    ends(|| {
        let bench = bench_with(&by_caller());
        let (bytes, buffer) = (pattern(4, 30 * CHUNK), bench.buffer(30 * CHUNK));
        let (sender, receiver) = channel();
        let pending = bench.transfer.upload(bench.block(&bytes), &buffer, 0).unwrap();
        pending.on_done(move |block| sender.send(block.unwrap().len()).unwrap()).unwrap();
        eventually("it has ended", || !bench.transfer.drive());
        assert_eq!(receiver.try_recv(), Ok(30 * CHUNK));
    });
}

#[test]
fn progress_rises_to_the_whole_and_can_be_read_from_elsewhere() {
    ends(|| {
        let bench = bench();
        for len in [99, 40 * CHUNK] {
            let gate = Gate::new(&bench.device).unwrap();
            let (bytes, buffer) = (pattern(5, len), bench.buffer(len));
            bench.stream.wait_gate(&gate, 1).unwrap();
            let mut pending = bench.transfer.upload(bench.block(&bytes), &buffer, 0).unwrap();
            let progress = pending.progress().unwrap();
            assert_eq!((progress.done_bytes(), progress.total_bytes()), (0, len as u64));
            assert!(progress.outcome().is_none() && !pending.is_done().unwrap());
            gate.open(1).unwrap();
            let mut seen = 0;
            eventually("it is whole", || {
                let now = progress.done_bytes();
                assert!(now >= seen, "it never falls");
                seen = now;
                progress.outcome().is_some()
            });
            assert_eq!(progress.done_bytes(), len as u64);
            pending.wait().unwrap();
        }
    });
}

#[test]
fn a_cancelled_copy_ends_and_what_is_behind_it_goes_on() {
    for options in [crate::options(), by_caller()] {
        ends(move || {
            let bench = bench_with(&options);
            let (bytes, len) = (pattern(6, 40 * CHUNK), 40 * CHUNK);
            let (first, second) = (bench.buffer(len), bench.buffer(len));
            let gate = Gate::new(&bench.device).unwrap();
            bench.stream.wait_gate(&gate, 1).unwrap();
            second.fill(9, &bench.stream).unwrap();
            // One with chunks under way, one with none.
            let upload = |buffer| bench.transfer.upload(bench.block(&bytes), buffer, 0).unwrap();
            let (mut started, untouched) = (upload(&first), upload(&second));
            let progress = started.progress().unwrap();
            started.cancel();
            untouched.cancel();
            assert!(untouched.is_done().unwrap(), "nothing of it has to be waited for");
            assert!(matches!(untouched.wait(), Err(Error::Cancelled)));
            assert!(!started.is_done().unwrap(), "chunks are under way");
            gate.open(1).unwrap();
            assert!(matches!(started.wait(), Err(Error::Cancelled)));
            assert_eq!(progress.done_bytes(), 3 * CHUNK as u64);
            // The order with the work before a cancelled copy stays.
            let content = bench.transfer.read(&second, &bench.pinned);
            assert!(content.unwrap().iter().all(|&byte| byte == 9));
            upload(&first).wait().unwrap();
            bench.is_clean();
        });
    }
}
