#!/usr/bin/env python3
"""Loads a safetensors file with Python's loaders and with `riverbed load`, in turn.

    pip install safetensors runai-model-streamer fastsafetensors torch
    cargo build --release
    scripts/python-loaders.py MODEL.safetensors [--rounds 7] [--riverbed target/release/riverbed]

Each run is a process of its own that reports how long the load took, imports not counted. What
a loader only maps or lends is copied, so that each ends with a model of its own in memory: in the
host device's for `riverbed load`, which crosses memory twice on the way there. 'cold' has the page cache dropped before each run (posix_fadvise after a
sync), 'warm' the file in it. Prints a table and one JSON object.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

LOADERS = {
    "safetensors": """
import time, sys
from safetensors.torch import load_file
begun = time.perf_counter()
tensors = load_file(sys.argv[1])
tensors = {name: tensor.clone() for name, tensor in tensors.items()}
print(time.perf_counter() - begun, sum(t.nbytes for t in tensors.values()))
""",
    "runai-model-streamer": """
import time, sys
from runai_model_streamer import SafetensorsStreamer
begun = time.perf_counter()
tensors = {}
with SafetensorsStreamer() as streamer:
    streamer.stream_file(sys.argv[1])
    for name, tensor in streamer.get_tensors():
        tensors[name] = tensor.clone()
print(time.perf_counter() - begun, sum(t.nbytes for t in tensors.values()))
""",
    "fastsafetensors": """
import time, sys
import torch
from fastsafetensors import fastsafe_open
begun = time.perf_counter()
with fastsafe_open(filenames=[sys.argv[1]], nogds=True, device="cpu") as file:
    tensors = {name: file.get_tensor(name).clone().detach() for name in file.keys()}
    print(time.perf_counter() - begun, sum(t.nbytes for t in tensors.values()))
""",
}


def riverbed(binary, path):
    out = subprocess.run([binary, "load", path, "--json"], capture_output=True, text=True)
    if out.returncode != 0:
        raise RuntimeError(out.stderr.strip())
    report = json.loads(out.stdout)
    return report["seconds"], report["model_bytes"]


def python(code, path):
    out = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    if out.returncode != 0:
        raise RuntimeError(out.stderr.strip().splitlines()[-1])
    seconds, total = out.stdout.split()[-2:]
    return float(seconds), int(total)


def drop_cache(path):
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def fill_cache(path):
    with open(path, "rb") as file:
        while file.read(16 << 20):
            pass


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--riverbed", default="target/release/riverbed")
    arguments = parser.parse_args()
    path = os.path.abspath(arguments.model)
    subjects = {"riverbed load": lambda: riverbed(arguments.riverbed, path)}
    for name, code in LOADERS.items():
        subjects[name] = lambda code=code: python(code, path)
    report = {}
    for state, prepare in [("cold", drop_cache), ("warm", fill_cache)]:
        seconds = {name: [] for name in subjects}
        missing, sizes = {}, {}
        for _ in range(arguments.rounds):
            for name, run in subjects.items():
                if name in missing:
                    continue
                prepare(path)
                try:
                    taken, sizes[name] = run()
                    seconds[name].append(taken)
                except RuntimeError as error:
                    missing[name] = str(error)
        print(f"{state} page cache")
        rows = {}
        for name, taken in seconds.items():
            if name in missing:
                print(f"  {name:24} failed: {missing[name]}")
                continue
            median = statistics.median(taken)
            rate = sizes[name] / median / 1e9
            rows[name] = {"seconds": taken, "median_seconds": median, "gb_per_s": rate}
            spread = max(taken) / min(taken)
            print(f"  {name:24} {median:8.3f} s  {rate:6.2f} GB/s  spread {spread:.2f}")
        report[state] = rows
    print(json.dumps(report))


if __name__ == "__main__":
    main()
