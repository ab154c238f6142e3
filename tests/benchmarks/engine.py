"""The engine against what the field uses: ``python tests/benchmarks/engine.py [--size small|full] [--rows NAME...] [--device cuda] [--json FILE]``.

Every method computes the same job with the same network and weights (loaded before) in a fresh process of its own, nothing of the air left out:

- ``ours``: the engine as the command line runs it; ``ours float32``: the same without reduced precision; ``ours watched``: as the viewer runs it,
  the slice on the screen (the middle one) first;
- ``plain``: the loop of the papers' code, one patch or slice after another, float32, untouched allocator (volumes: patches of 26^3 that overlap
  by 6);
- ``monai``: MONAI's sliding windows, overlap 0.25, float32, untouched allocator, one at a time (32^3; slices: windows of the network's size, of
  64 x 64 pixels for FD-ViT, which is trained on patches, and whole slices for Cohf-T, which is trained on these);
- ``monai best``: the same with tuned allocator, channels last, our precision, windows of 64^3, or four slices at a time (whole ones,
  where the network takes them);
- ``network``: the network alone on the whole job in one piece (slices: the engine's groups), tuned, float32: the untiled result.

The columns: seconds and their ratios to ours; ``overhead`` of ours float32 over the network's time on the same voxels (margins counted as work);
visible slice: when ``ours watched`` has the slice on the screen exact, as seconds and share of its run; memory added by the computation (peak
resident size over that before it, the result counted), and the peers' over ours; ``seam``: largest difference from the untiled result as a share
of its range, and PSNR to it; the largest errors of the time left as it was told; FLOP/s of ``network`` and of ours over the best rate of a plain
matrix product or convolution here. Weights are random where none are shipped: speed does not depend on them.
``small`` (default) is a part of the standard jobs (``full``): fewer slices, smaller volumes. ``--device cuda`` adds the checks of ``gpu_checks.py``.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import peers
from rows import ROWS, job, model_of

METHODS = ("plain", "monai", "monai best", "network", "ours float32", "ours", "ours watched")
STOCK = ("plain", "monai")
REDUCED = ("monai best", "ours", "ours watched")
GEMM, CONV = 2048, {2: (64, (256, 256)), 3: (48, (48, 48, 48))}
"""Edge of the matrices, and channels and size of the convolutions, whose speed stands for the device's."""


def measure(name: str, size: str, method: str, device: str, target: Path) -> dict[str, Any]:
    """One method on one job, in this process."""
    import torch

    from napari_mrsr.inference import RunOptions
    from napari_mrsr.inference.plan import make_plan
    from napari_mrsr.inference.precision import choose
    from napari_mrsr.inference.process import tune_process
    from napari_mrsr.inference.setup import set_up

    if method in STOCK and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    elif method not in STOCK:
        tune_process()
    row = ROWS[name]
    model, shipped = model_of(row, Path(os.environ["XDG_DATA_HOME"]))
    low, reference = job(row, size)
    precision = "auto" if method in REDUCED else "float32"
    options = RunOptions.create(model=model, device=device, noise=0.0, skip_air=False, orientations="first", precision=precision)

    def prepare() -> Any:
        setup = set_up(low, options, reference)
        setup.network.requires_grad_(False)
        setup.feed.precision = choose(setup.feed, setup.job.card.sha256) if precision == "auto" else precision
        if method in STOCK:
            setup.network.to(memory_format=torch.contiguous_format)
        setup.feed.run(_small(make_plan(setup.job, setup.network, setup.device).tiles[0]))  # imports, kernels
        return setup

    # On a thread that ends: those that compute keep all cores to themselves.
    with ThreadPoolExecutor(1) as pool:
        setup = pool.submit(prepare).result()
    feed, plan = setup.feed, make_plan(setup.job, setup.network, setup.device)
    if method.startswith("monai"):
        import monai.inferers  # noqa: F401 - seconds
    out = np.zeros(setup.job.grid.fine_shape, np.float32)
    before, started = _memory(setup.device), time.perf_counter()
    found: dict[str, Any] = {}
    if method.startswith("ours"):
        out, found = _ours(low, options, reference, setup, started, method == "ours watched")
    elif method == "network":
        peers.network(feed, out, _planes_of(plan.tiles[0]))
    elif method == "plain":
        peers.plain(feed, out)
    else:
        peers.monai(feed, out, method, row.window)
    seconds = time.perf_counter() - started
    found |= {"seconds": seconds, "added_mib": _added(setup.device, before), "precision": feed.precision, "shipped": shipped}
    np.save(target, out)
    if found.get("first_seconds"):
        found["first_share"] = found["first_seconds"] / seconds
    if method == "network":
        found |= {"flop": _flop(feed, plan), "voxels": plan.voxels / _volume(plan, setup), "windows": _windows(feed, out, plan)}
    return found


def _ours(low: Any, options: Any, reference: Any, setup: Any, started: float, watched: bool) -> tuple[np.ndarray, dict[str, Any]]:
    """The engine's result; its plan, the error of the time left, and where it is watched, seconds until all of the slice on the screen is exact."""
    from napari_mrsr.inference import Control, Progress, RunDone, TileDone, engine

    # Nobody's time counts the loading of weights.
    engine.set_up = lambda *_: setup
    axis = setup.job.stacks[0] if setup.feed.architecture.tiling == "planes" else 2
    grid, control = setup.job.grid, Control()
    middle = [n // 2 for n in grid.fine_shape]
    if watched:
        control.look(setup.job.affine[:3, :3] @ middle + setup.job.affine[:3, 3], axis)
    seen, found, told = np.zeros([n for a, n in enumerate(grid.fine_shape) if a != axis], bool), {}, []
    for event in engine.run(low, options, reference, control=control):
        now = time.perf_counter() - started
        if isinstance(event, Progress) and event.seconds_left is not None:
            told.append((now, event.seconds_left))
        if watched and isinstance(event, TileDone) and not event.preview and event.block[axis][0] <= middle[axis] < event.block[axis][1]:
            seen[tuple(slice(*b) for a, b in enumerate(event.block) if a != axis)] = True
            if seen.all():
                found.setdefault("first_seconds", now)
        if isinstance(event, RunDone):
            errors = [(at, abs(left - (now - at))) for at, left in told if at >= 0.1 * now]
            found["left_error"] = max((e / (now - at) for at, e in errors if at <= 0.5 * now), default=None)
            found["end_error"] = max((e / now for _, e in errors), default=None)
            return event.volume.data, found | {"plan": event.volume.record["run"]["plan"]}
    raise SystemExit("the run ended without a result")


def _flop(feed: Any, plan: Any) -> float:
    """Operations of the whole job, margins left out, counted on a piece (attention across scales: as in a tile of that size)."""
    from torch.utils.flop_counter import FlopCounterMode

    from napari_mrsr.inference.precision import probe_tile

    tile, before = probe_tile(feed), feed.precision
    feed.precision = "float32"
    with FlopCounterMode(display=False) as counter:
        feed.run(tile)
    feed.precision = before
    return counter.get_total_flops() / tile.voxels * float(np.prod(peers.shape_of(feed)))


def _windows(feed: Any, out: np.ndarray, plan: Any) -> list[float] | None:
    """Networks that see windows of a fixed size: what the places of these windows change, as largest share of the range and PSNR."""
    side = getattr(feed.network, "size", None)
    if side is None or not hasattr(feed.network, "overlap") or max(feed.job.grid.fine_shape) <= np.max(side):
        return None
    other, kept = np.zeros_like(out), feed.network.overlap
    feed.network.overlap = 0.5
    peers.network(feed, other, _planes_of(plan.tiles[0]))
    feed.network.overlap = kept
    return list(_difference(other, out))


def _difference(image: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Largest difference as a share of the range of the truth, and PSNR."""
    error, span = image.astype(np.float64) - truth, float(np.ptp(truth))
    return float(np.abs(error).max()) / span, float(min(10 * np.log10(span**2 / max(np.mean(error**2), 1e-300)), 999.0))


def device_peak(device: str) -> dict[str, float]:
    """Best GFLOP/s of a matrix product and of convolutions in the form that is fastest here."""
    import torch
    import torch.nn.functional as F

    from napari_mrsr.inference.process import tune_process

    tune_process()
    found = {}
    kinds = [torch.float32] + ([torch.float16, torch.bfloat16] if device.startswith("cuda") else [torch.bfloat16])
    for kind in kinds:
        name = str(kind).removeprefix("torch.")
        a, b = (torch.randn(GEMM, GEMM, device=device, dtype=kind) for _ in range(2))
        found[f"gemm {name}"] = 2 * GEMM**3 / _best(lambda a=a, b=b: a @ b, device) / 1e9
        for dimension, (channels, shape) in CONV.items():
            form = torch.channels_last if dimension == 2 else torch.channels_last_3d
            x = torch.randn(1, channels, *shape, device=device, dtype=kind).contiguous(memory_format=form)
            w = torch.randn(channels, channels, *[3] * dimension, device=device, dtype=kind).contiguous(memory_format=form)
            convolve = F.conv2d if dimension == 2 else F.conv3d
            flop = 2 * channels**2 * 3**dimension * float(np.prod(shape))
            found[f"conv{dimension}d {name}"] = flop / _best(lambda c=convolve, x=x, w=w: c(x, w, padding=1), device) / 1e9
    return found


def _best(work: Callable[[], Any], device: str, repeat: int = 7) -> float:
    import torch

    seconds = []
    with torch.inference_mode():
        for _ in range(repeat + 1):
            started = time.perf_counter()
            work()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def _planes_of(tile: Any) -> int:
    return 1 if tile.stack is None else tile.size[tile.stack]


def _volume(plan: Any, setup: Any) -> int:
    return plan.voxels if plan.tiles[0].stack is not None else int(np.prod(setup.job.grid.coarse_shape))


def _small(tile: Any) -> Any:
    from napari_mrsr.inference.tiles import Tile

    parts = [slice(0, 1 if a == tile.stack else s.stop if tile.stack is not None else min(16, s.stop)) for a, s in enumerate(tile.padded)]
    return Tile(tuple(parts), tuple(parts), tile.stack)


def _memory(device: Any) -> int:
    """Begin to watch memory; gives the bytes in use. What preparations left behind in the allocator is handed back first."""
    import psutil
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    if sys.platform.startswith("linux"):
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    return psutil.Process().memory_info().rss


def _added(device: Any, before: int) -> float:
    import torch

    if device.type == "cuda":
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    if sys.platform.startswith("linux"):
        peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) / 2**10 - before / 2**20
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) - before) / 2**20


def report(names: list[str], size: str, device: str, repeat: int, methods: tuple[str, ...] = METHODS) -> dict[str, Any]:
    """All methods of the rows, one after another, each in fresh processes."""
    from napari_mrsr.networks import get_architecture

    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "XDG_DATA_HOME": home, "XDG_CACHE_HOME": home}

        def fresh(*options: str) -> dict[str, Any]:
            command = [sys.executable, __file__, "--device", device, *options]
            return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout.splitlines()[-1])

        peak = fresh("--peak")
        rows: dict[str, Any] = {}
        for name in names:
            found, images = {}, {}
            for method in methods:
                print(f"{name}: {method} ...", file=sys.stderr, flush=True)
                runs = [fresh("--only", name, "--size", size, "--method", method, "--target", f"{home}/out.npy") for _ in range(repeat)]
                images[method] = np.load(f"{home}/out.npy")
                medians = {key: statistics.median(r[key] for r in runs) for key in runs[0] if all(isinstance(r[key], float) for r in runs)}
                found[method] = runs[0] | medians
            rows[name] = _compared(
                ROWS[name].shapes[size], ROWS[name].shapes["full"], found, images, peak, get_architecture(ROWS[name].architecture).dimension
            )
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, threads {os.environ.get('OMP_NUM_THREADS', 'all')}"
    return {"machine": machine, "device": device, "size": size, "repeat": repeat, "peak_gflops": peak, "rows": rows}


def _compared(shape: Any, full: Any, found: dict[str, Any], images: dict[str, np.ndarray], peak: dict[str, float], dimension: int) -> dict[str, Any]:
    """A row's measurements and what they say about one another."""
    row: dict[str, Any] = {"shape": shape, "standard_job": full, "methods": found}
    network, ours, exact = found["network"], found["ours"], found["ours float32"]
    for method, image in images.items():
        found[method]["seam"], found[method]["psnr_to_untiled"] = _difference(image, images["network"])
    for peer in ("plain", "monai", "monai best"):
        if peer in found:
            row[f"{peer} over ours"] = found[peer]["seconds"] / ours["seconds"]
            row[f"{peer} over ours float32"] = found[peer]["seconds"] / exact["seconds"]
            row[f"{peer} memory over ours"] = found[peer]["added_mib"] / max(ours["added_mib"], 1e-9)
    row["overhead"] = exact["seconds"] / (network["seconds"] * network["voxels"]) - 1
    best = max(peak["gemm float32"], peak[f"conv{dimension}d float32"])
    row["network_gflops"], row["network_of_peak"] = network["flop"] / network["seconds"] / 1e9, network["flop"] / network["seconds"] / 1e9 / best
    row["ours_gflops"] = network["flop"] / ours["seconds"] / 1e9
    return row


def table(result: dict[str, Any]) -> str:
    """The report for people."""
    lines = [f"{result['machine']}, device {result['device']}, size {result['size']}, medians of {result['repeat']}"]
    lines.append("peak GFLOP/s: " + ", ".join(f"{k} {v:.0f}" for k, v in result["peak_gflops"].items()))
    for name, row in result["rows"].items():
        found = row["methods"]
        kind = "shipped weights" if found["ours"]["shipped"] else "random weights"
        size = "x".join(map(str, row["shape"]))
        lines.append(f"\n{name} ({kind}), LR {size} of {'x'.join(map(str, row['standard_job']))}; {found['ours']['plan']}")
        lines.append(f"  {'':<14}{'seconds':>9}{'/ ours':>8}{'/ ours f32':>11}{'added MiB':>11}{'/ ours':>8}{'seam max':>10}{'PSNR':>8}  numbers")
        for method, got in found.items():
            ratios = [row.get(f"{method} {key}") for key in ("over ours", "over ours float32", "memory over ours")]
            a, b, c = ("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
            line = f"  {method:<14}{got['seconds']:>9.2f}{a:>8}{b:>11}{got['added_mib']:>11.0f}{c:>8}"
            lines.append(f"{line}{got['seam']:>10.1e}{got['psnr_to_untiled']:>8.1f}  {got['precision']}")
        watched = found["ours watched"]
        first = f"{watched['first_seconds']:.2f} s, {100 * watched['first_share']:.0f} % of the run" if "first_seconds" in watched else "at the end"
        speed = f"network {row['network_gflops']:.0f} GFLOP/s = {100 * row['network_of_peak']:.0f} % of the peak, ours {row['ours_gflops']:.0f}"
        lines.append(f"  overhead {100 * row['overhead']:.0f} %; visible slice exact after {first}; {speed}")
        told = {m: [got.get(key) for key in ("left_error", "end_error")] for m, got in found.items() if m.startswith("ours")}
        errors = [f"{m} {' and '.join('-' if e is None else f'{100 * e:.0f} %' for e in both)}" for m, both in told.items()]
        lines.append(f"  time left as told, off by at most (of itself from 10 to 50 % of the run; of the run from 10 % on): {', '.join(errors)}")
        if found["network"]["windows"]:
            most, psnr = found["network"]["windows"]
            lines.append(f"  windows of a fixed size: with twice the overlap the result changes by at most {most:.1e}, PSNR {psnr:.1f} dB")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the report there")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--size", default="small", choices=["tiny", "small", "full"])
    parser.add_argument("--methods", nargs="*", default=[], choices=METHODS, help="peers to leave in (default: all)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeat", type=int, default=1, help="medians of so many runs")
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--method", help=argparse.SUPPRESS)
    parser.add_argument("--target", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print(json.dumps(device_peak(arguments.device)))
        return
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments.size, arguments.method, arguments.device, arguments.target)))
        return
    methods = tuple(m for m in METHODS if not arguments.methods or m in {*arguments.methods, "network", "ours float32", "ours", "ours watched"})
    result = report(arguments.rows, arguments.size, arguments.device, arguments.repeat, methods)
    print(table(result))
    if arguments.device.startswith("cuda"):
        from gpu_checks import checks, text

        result["checks"] = checks(arguments.device)
        print(text(result["checks"]))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
