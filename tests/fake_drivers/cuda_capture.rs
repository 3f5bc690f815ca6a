//! Captures: work is not run, forbidden calls break them, and what joined must come back.

use crate::cuda_calls::{Cuda, made};

const GLOBAL: u32 = 0;
const THREAD_LOCAL: u32 = 1;
const RELAXED: u32 = 2;

/// A driver with a stream that captures, and memory to work on.
fn capturing(mode: u32) -> (Cuda, u64, u64) {
    let cuda = Cuda::ready("");
    let (stream, at) = (cuda.stream(), cuda.alloc(64));
    assert_eq!(cuda.cuStreamBeginCapture_v2(stream, mode), 0);
    (cuda, stream, at)
}

#[test]
fn captured_work_is_not_run() {
    let (cuda, stream, at) = capturing(GLOBAL);
    assert_eq!(made(|status| cuda.cuStreamIsCapturing(stream, status)), 1);
    assert_eq!(cuda.cuMemsetD8Async(at, 1, 64, stream), 0);
    let graph = made(|graph| cuda.cuStreamEndCapture(stream, graph));
    assert_eq!(made(|status| cuda.cuStreamIsCapturing(stream, status)), 0);
    assert_eq!(cuda.read(at, 64), [0xa5; 64]);
    assert_eq!(cuda.fake.report().leaks["graphs"], 1);
    assert_eq!(cuda.cuGraphDestroy(graph), 0);
    cuda.assert_misused(&[]);
}

#[test]
fn forbidden_calls_break_a_capture_the_thread_must_mind() {
    // The mode of the capture; on its own thread or on another; that thread's mode; the status.
    let cases = [
        (GLOBAL, true, GLOBAL, 900),
        (GLOBAL, false, GLOBAL, 900),
        (GLOBAL, false, THREAD_LOCAL, 0),
        (GLOBAL, true, RELAXED, 0),
        (THREAD_LOCAL, true, THREAD_LOCAL, 900),
        (THREAD_LOCAL, false, GLOBAL, 0),
        (RELAXED, true, GLOBAL, 0),
    ];
    for case @ (mode, same_thread, mut thread_mode, wanted) in cases {
        let (cuda, stream, _) = capturing(mode);
        let context = made(|at| cuda.cuCtxGetCurrent(at));
        let mut forbidden = || {
            assert_eq!(cuda.cuCtxSetCurrent(context), 0);
            assert_eq!(cuda.cuThreadExchangeStreamCaptureMode(&mut thread_mode), 0);
            let status = cuda.cuMemAlloc_v2(&mut 0, 64);
            assert_eq!(cuda.cuThreadExchangeStreamCaptureMode(&mut thread_mode), 0);
            status
        };
        let status = match same_thread {
            true => forbidden(),
            false => std::thread::scope(|scope| scope.spawn(forbidden).join().unwrap()),
        };
        assert_eq!(status, wanted, "{case:?}");
        let mut graph = 7;
        let ended = cuda.cuStreamEndCapture(stream, &mut graph);
        if wanted == 0 {
            assert_eq!(ended, 0, "{case:?}");
            cuda.assert_misused(&[]);
        } else {
            assert_eq!((ended, graph), (901, 0), "{case:?}");
            cuda.assert_misused(&["forbidden_while_capturing"]);
        }
    }
}

#[test]
fn capturing_streams_cannot_be_waited_for() {
    for case in 0..4 {
        let (cuda, stream, _) = capturing(RELAXED);
        let event = cuda.event();
        assert_eq!(cuda.cuEventRecord(event, stream), 0);
        let (status, wanted) = match case {
            0 => (cuda.cuStreamSynchronize(stream), 900),
            1 => (cuda.cuStreamQuery(stream), 900),
            2 => (cuda.cuEventQuery(event), 907),
            _ => (cuda.cuMemsetD8Async(cuda.alloc(8), 1, 8, 0), 906),
        };
        assert_eq!(status, wanted, "case {case}");
        assert_eq!(made(|status| cuda.cuStreamIsCapturing(stream, status)), 2);
        assert_eq!(cuda.cuStreamEndCapture(stream, &mut 0), 901);
    }
}

#[test]
fn streams_that_join_must_come_back() {
    for comes_back in [true, false] {
        let (cuda, stream, at) = capturing(GLOBAL);
        let (other, fork, join) = (cuda.stream(), cuda.event(), cuda.event());
        assert_eq!(cuda.cuEventRecord(fork, stream), 0);
        assert_eq!(cuda.cuStreamWaitEvent(other, fork, 0), 0);
        assert_eq!(made(|status| cuda.cuStreamIsCapturing(other, status)), 1);
        assert_eq!(cuda.cuMemsetD8Async(at, 1, 64, other), 0);
        if comes_back {
            assert_eq!(cuda.cuEventRecord(join, other), 0);
            assert_eq!(cuda.cuStreamWaitEvent(stream, join, 0), 0);
        }
        let ended = cuda.cuStreamEndCapture(stream, &mut 0);
        assert_eq!(ended, if comes_back { 0 } else { 904 });
        assert_eq!(made(|status| cuda.cuStreamIsCapturing(other, status)), 0);
        cuda.assert_misused(if comes_back { &[] } else { &["capture_state"] });
    }
}

#[test]
fn captures_end_where_and_by_whom_they_began() {
    let (cuda, stream, _) = capturing(GLOBAL);
    let context = made(|at| cuda.cuCtxGetCurrent(at));
    let elsewhere = || {
        assert_eq!(cuda.cuCtxSetCurrent(context), 0);
        cuda.cuStreamEndCapture(stream, &mut 0)
    };
    let status = std::thread::scope(|scope| scope.spawn(elsewhere).join().unwrap());
    assert_eq!(status, 908);
    assert_eq!(cuda.cuStreamBeginCapture_v2(stream, GLOBAL), 401);
    assert_eq!(cuda.cuStreamBeginCapture_v2(0, GLOBAL), 900);
    assert_eq!(cuda.cuStreamEndCapture(stream, &mut 0), 0);
    assert_eq!(cuda.cuStreamEndCapture(stream, &mut 0), 401);
}
