#!/usr/bin/env python3
"""PyTorch's side of the selftest's figures, as one JSON object: a pair of its allocator, what
pinning costs, and copies from pinned memory. Needs PyTorch and a GPU.

    python3 scripts/pytorch-figures.py [--quick]
"""

import argparse
import json
import statistics
import time

import torch


def rounds(measure, count):
    """Median and spread of `count` measurements."""
    figures = [measure() for _ in range(count)]
    return {"median": statistics.median(figures), "least": min(figures), "most": max(figures)}


def pair_ns(size, times=20_000):
    """Nanoseconds for taking and giving back a block that is in the cache."""
    stream = torch.cuda.current_stream().cuda_stream
    take = torch.cuda.caching_allocator_alloc
    give = torch.cuda.caching_allocator_delete
    for _ in range(100):
        give(take(size, 0, stream))
    begun = time.perf_counter_ns()
    for _ in range(times):
        give(take(size, 0, stream))
    return (time.perf_counter_ns() - begun) / times


def tensor_pair_ns(size, times=20_000):
    """The same through a tensor, as programs do it."""
    for _ in range(100):
        torch.empty(size, dtype=torch.uint8, device="cuda")
    begun = time.perf_counter_ns()
    for _ in range(times):
        torch.empty(size, dtype=torch.uint8, device="cuda")
    return (time.perf_counter_ns() - begun) / times


def pin_ms_per_gib():
    """Milliseconds to pin a GiB that was not pinned before."""
    begun = time.perf_counter()
    block = torch.empty(1 << 30, dtype=torch.uint8, pin_memory=True)
    elapsed = time.perf_counter() - begun
    del block
    torch._C._host_emptyCache() if hasattr(torch._C, "_host_emptyCache") else None
    return elapsed * 1e3


def copy_gb_per_s(size, times):
    """GB/s of non-blocking copies from pinned memory, by events."""
    source = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    target = torch.empty(size, dtype=torch.uint8, device="cuda")
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    target.copy_(source, non_blocking=True)
    torch.cuda.synchronize()
    start.record()
    for _ in range(times):
        target.copy_(source, non_blocking=True)
    end.record()
    torch.cuda.synchronize()
    return size * times / (start.elapsed_time(end) * 1e6)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--quick", action="store_true", help="three rounds in place of seven")
    count = 3 if arguments.parse_args().quick else 7
    if not torch.cuda.is_available():
        raise SystemExit("error: PyTorch finds no GPU")
    torch.cuda.init()
    sizes = [4 << 10, 64 << 10, 1 << 20, 16 << 20, 256 << 20]
    report = {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(),
        "backend": torch.cuda.get_allocator_backend(),
        "pair_ns": {size: rounds(lambda: pair_ns(size), count) for size in (512, 1 << 20)},
        "tensor_pair_ns": rounds(lambda: tensor_pair_ns(1 << 20), count),
        "pin_ms_per_gib": rounds(pin_ms_per_gib, 3),
        "h2d_gb_per_s": {
            size: rounds(lambda: copy_gb_per_s(size, max(4, (256 << 20) // size // 4)), count)
            for size in sizes
        },
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
