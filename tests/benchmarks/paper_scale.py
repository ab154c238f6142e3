"""Every network at its paper's scale: parameters, forward time and peak memory.

    python tests/benchmarks/paper_scale.py [--device cuda]

Each row is measured in a fresh process on one training-sized tile: one pass to warm up, the second one timed; memory is the growth of the peak
resident size (CPU) or the peak allocation (CUDA) over the process with the network loaded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

ROWS = [
    # name, options, scale, LR size, published or official count
    ("cftn", {"ca_reduction": 8}, 2, (26, 26, 26), "3,498,884 (13.35 MB)"),
    ("cftn", {"ca_reduction": 8}, 3, (26, 26, 26), "not printed"),
    ("fdvit", {}, 2, (128, 128), "not printed"),
    ("dcamsr", {"size": 256}, 2, (128, 128), "9,286,705"),
    ("dcamsr", {"size": 320}, 4, (80, 80), "12,383,281"),
    ("cohft", {"preset": "L"}, 4, (60, 60), "152.106 M (not reachable)"),
    ("cohft", {"preset": "S"}, 4, (60, 60), "not printed"),
    ("transmrsr", {}, 4, (256, 256), "160,842,497 used of 183,558,788"),
]


def measure(index: int, device: str) -> dict[str, object]:
    """One row, in this process."""
    import resource

    import torch

    from napari_mrsr.networks import create, get_architecture

    name, options, scale, size, _ = ROWS[index]
    torch.manual_seed(0)
    network = create(name, scale, **options).eval().to(device)
    architecture = get_architecture(name)
    lr = torch.rand(1, 1, *size, device=device)
    reference = None
    if architecture.reference != "none":
        reference = torch.rand(1, 1, *(n * scale for n in size), device=device)
    cuda = device.startswith("cuda")
    before = torch.cuda.memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    seconds = []
    with torch.inference_mode():
        for _ in range(2):
            started = time.perf_counter()
            out = network(lr, reference=reference)
            if cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if not torch.isfinite(out).all():
        raise SystemExit(f"{name}: the output is not finite")
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "seconds": seconds[-1],
        "memory": peak - before,
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--row", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row is not None:
        print(json.dumps(measure(options.row, options.device)))
        return
    print("| network | options | scale | input | parameters | published or official | forward (s) | memory (MiB) |")
    print("|---|---|---|---|---|---|---|---|")
    for index, (name, made, scale, size, published) in enumerate(ROWS):
        command = [sys.executable, __file__, "--row", str(index), "--device", options.device]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        shape = "x".join(map(str, size))
        made_text = ", ".join(f"{k}={v}" for k, v in made.items()) or "default"
        print(
            f"| {name} | {made_text} | {scale} | {shape} | {row['parameters']:,} | {published} "
            f"| {row['seconds']:.2f} | {row['memory'] / 2**20:.0f} |",
            flush=True,
        )
    print(f"\n{options.device}, {row['threads']} threads")


if __name__ == "__main__":
    main()
