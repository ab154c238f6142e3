"""The engine against what the field uses, network by network: ``python tests/benchmarks/engine.py [--json FILE] [--rows NAME...]``.

Every method computes the same job with the same network and weights in a fresh process of its own:

- ``ours``: the engine as the worker process runs it (tuned allocator, planned tiles or groups of slices, nothing of the air left out);
- ``plain``: the loop of the papers' code, one patch or slice after another, float32, untouched allocator (3D: patches of 26^3 that overlap by half
  their margin of 6);
- ``monai``: MONAI's sliding-window inference, overlap 0.25, constant weights, untouched allocator (windows of 32^3, or whole slices, one at a time);
- ``monai best``: the same with the settings that were fastest for it here: tuned allocator, windows of 64^3 or four slices at a time.

``network``: the bare network on the whole job in one piece (3D) or slice groups, tuned, without any engine: what overhead is measured against.
Deviation is the largest difference from the untiled result as a fraction of its range. ``first``: share of the run after which the slice on the
screen (the middle one) is exact. Weights are random but for shipped models: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

# name: architecture (None: shipped model), options, scale, protocol, LR shape
ROWS: dict[str, tuple[str | None, dict[str, Any], int, str, tuple[int, int, int]]] = {
    "cftn-x2": (None, {}, 2, "gaussian", (64, 96, 96)),
    "cftn paper x2": ("cftn", {"ca_reduction": 8}, 2, "gaussian", (40, 52, 52)),
    "fdvit paper x2": ("fdvit", {}, 2, "bicubic", (128, 128, 8)),
    "dcamsr paper x2": ("dcamsr", {"size": 256}, 2, "kspace", (128, 128, 8)),
    "cohft paper L x4": ("cohft", {"preset": "L"}, 4, "kspace", (60, 60, 8)),
    "transmrsr paper x4": ("transmrsr", {}, 4, "slice-profile", (6, 256, 64)),
}
METHODS = ("plain", "monai", "monai best", "network", "ours")
TUNED = ("monai best", "network", "ours")
PATCH, MARGIN = 26, 3


def install(name: str, home: Path) -> str:
    """Model of a row, with random weights in a private folder where none is shipped."""
    import torch

    from napari_mrsr.networks import create, get_architecture
    from napari_mrsr.zoo import Card, save_weights, sha256_of

    kind, options, scale, protocol, _ = ROWS[name]
    if kind is None:
        return name
    folder = home / "napari-mrsr" / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    model = f"bench-{kind}-x{scale}"
    path = folder / f"{model}.safetensors"
    if not path.exists():
        torch.manual_seed(0)
        architecture = get_architecture(kind)
        save_weights(create(kind, scale, **options).state_dict(), path, {})
        card = Card(
            name=model, title=model, architecture=kind, options=options, scale=scale, protocol=protocol, weights=path.name, sha256=sha256_of(path),
            window=architecture.window, reference=architecture.reference, halo=8 if kind == "cftn" else None,
        )  # fmt: skip
        (folder / f"{model}.json").write_text(card.model_dump_json())
    return model


def job(name: str):
    """Low resolution, and a reference where the network takes one: noise-like texture of the row's size."""
    from scipy import ndimage

    from napari_mrsr.networks import get_architecture
    from napari_mrsr.volume import Volume

    kind, _, scale, protocol, shape = ROWS[name]
    random = np.random.default_rng(0)
    data = 400 + 300 * ndimage.gaussian_filter(random.standard_normal(shape), 1.5).astype(np.float32)
    sizes = (1.0, 1.0, 3.0) if protocol != "slice-profile" else (4.0, 1.0, 1.0)
    low = Volume(data, np.diag([*sizes, 1.0]), name="LR")
    if kind is None or get_architecture(kind).reference != "needed":
        return low, None
    fine = tuple(n * (scale if i < 2 else 1) for i, n in enumerate(shape))
    reference = 300 + 200 * ndimage.gaussian_filter(random.standard_normal(fine), 1.5).astype(np.float32)
    affine = np.diag([1 / scale, 1 / scale, 3.0, 1.0])
    affine[:2, 3] = (1 / scale - 1) / 2 if protocol != "kspace" else 0.0
    return low, Volume(reference, affine, name="T1")


def measure(name: str, method: str, target: Path) -> dict[str, Any]:
    """One method on one job, in this process."""
    import torch

    from napari_mrsr.inference import Control, RunDone, RunOptions, TileDone, run
    from napari_mrsr.inference.engine import _passes
    from napari_mrsr.inference.process import tune_process
    from napari_mrsr.inference.setup import set_up

    if method in TUNED:
        tune_process()
    else:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = install(name, Path(os.environ["XDG_DATA_HOME"]))
    low, reference = job(name)
    options = RunOptions.create(model=model, device="cpu", noise=0.0, skip_air=False, orientations="first")
    setup = set_up(low, options, reference)
    feed, stack = setup.feed, setup.job.stacks[0] if setup.feed.architecture.tiling == "planes" else None
    setup_plan = _passes(setup, low, options, None)[0][2]
    feed.run(_small(setup_plan.tiles[0]))  # imports, threads, kernels
    before = _rss()
    started, first = time.perf_counter(), None
    if method == "ours":
        out, first = None, None
        control = Control()
        middle = low.affine[:3, :3] @ (np.array(low.shape) // 2) + low.affine[:3, 3]
        control.look(middle, 2 if stack is None else stack)
        centre = [n // 2 for n in setup.job.grid.fine_shape]
        for event in run(low, options, reference, control=control):
            if isinstance(event, TileDone) and not event.preview and first is None:
                axis = 2 if stack is None else stack
                first = time.perf_counter() - started if event.block[axis][0] <= centre[axis] < event.block[axis][1] else None
            if isinstance(event, RunDone):
                out = event.volume.data
        seconds = time.perf_counter() - started
        return _report(out, target, seconds, before, first / seconds if first else None)
    out = np.zeros(setup.job.grid.fine_shape, np.float32)
    _peer(method, feed, low, out, stack, setup_plan)
    return _report(out, target, time.perf_counter() - started, before, None)


def _peer(method: str, feed: Any, low: Any, out: np.ndarray, stack: int | None, plan: Any) -> None:
    from napari_mrsr.inference.tiles import make_planes, make_tiles

    if stack is not None:
        shape = feed.job.grid.fine_shape if feed.architecture.pre_interpolated else low.shape
        count = {"plain": 1, "monai": 1, "monai best": 4, "network": plan.tiles[0].core[stack].stop - plan.tiles[0].core[stack].start}[method]
        for tile in make_planes(slice(0, shape[stack]), shape, stack, count):
            index = [slice(None)] * 3
            index[stack] = tile.core[stack]
            out[tuple(index)] = feed.run(tile)[""]
        return
    whole = [slice(0, n) for n in low.shape]
    if method == "network":
        (tile,) = make_tiles(whole, low.shape, low.shape, 0, 1)
        out[...] = feed.run(tile)[""]
    elif method == "plain":
        for tile in make_tiles(whole, low.shape, [PATCH - 2 * MARGIN] * 3, MARGIN, 1):
            piece, scale = feed.run(tile)[""], feed.job.scale
            target = tuple(slice(scale * s.start, scale * s.stop) for s in tile.core)
            out[target] = piece[tuple(slice(scale * s.start, scale * s.stop) for s in tile.inside())]
    else:
        out[...] = _sliding(feed, low, 32 if method == "monai" else 64)


def _sliding(feed: Any, low: Any, edge: int) -> np.ndarray:
    import torch
    from monai.inferers import sliding_window_inference

    gain = np.float32(feed.job.gain)
    data = torch.from_numpy(np.ascontiguousarray(low.data, np.float32) / gain)[None, None]
    roi = [min(edge, n) for n in low.shape]
    with torch.inference_mode():
        done = sliding_window_inference(data, roi, 1, lambda x: feed.network(x, noise_level=0.0), overlap=0.25)
    return done[0, 0].numpy() * gain


def _small(tile: Any) -> Any:
    from napari_mrsr.inference.tiles import Tile

    if tile.stack is None:
        parts = [slice(0, min(16, s.stop)) for s in tile.core]
        return Tile((parts[0], parts[1], parts[2]), (parts[0], parts[1], parts[2]))
    core = list(tile.core)
    core[tile.stack] = slice(0, 1)
    return Tile(tuple(core), tuple(core), tile.stack)


def _rss() -> int:
    import psutil

    return psutil.Process().memory_info().rss


def _report(out: np.ndarray, target: Path, seconds: float, before: int, first: float | None) -> dict[str, Any]:
    np.save(target, out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"seconds": seconds, "added_mib": (peak - before) / 2**20, "first": first}


def report(names: list[str], repeat: int) -> dict[str, Any]:
    """All methods of the rows, one after another."""
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "XDG_DATA_HOME": home}
        for name in names:
            found: dict[str, Any] = {}
            images = {}
            for method in METHODS:
                print(f"{name}: {method} ...", file=sys.stderr, flush=True)
                runs = []
                for _ in range(repeat):
                    command = [sys.executable, __file__, "--only", name, "--method", method, "--target", f"{home}/out.npy"]
                    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
                    runs.append(json.loads(done.stdout.splitlines()[-1]))
                images[method] = np.load(f"{home}/out.npy")
                found[method] = {**runs[0], "seconds": statistics.median(r["seconds"] for r in runs)}
                found[method]["added_mib"] = statistics.median(r["added_mib"] for r in runs)
            span = float(np.ptp(images["network"]))
            for method in METHODS:
                found[method]["deviation"] = float(np.abs(images[method] - images["network"]).max()) / span
            rows[name] = found
    return rows


def table(rows: dict[str, Any]) -> str:
    """For people: seconds, and the peers' over ours."""
    lines = [
        f"{'':<20}" + "".join(f"{m:>12}" for m in METHODS) + f"{'plain/ours':>12}{'monai/ours':>12}{'best/ours':>12}{'overhead':>10}{'first':>8}"
    ]
    for name, found in rows.items():
        ours = found["ours"]["seconds"]
        ratios = "".join(f"{found[m]['seconds'] / ours:>12.2f}" for m in ("plain", "monai", "monai best"))
        over = 100 * (ours / found["network"]["seconds"] - 1)
        first = found["ours"]["first"]
        lines.append(
            f"{name:<20}" + "".join(f"{found[m]['seconds']:>12.2f}" for m in METHODS) + f"{ratios}{over:>9.0f}%{first if first else 0:>8.2f}"
        )
        lines.append(f"{'  added MiB':<20}" + "".join(f"{found[m]['added_mib']:>12.0f}" for m in METHODS))
        lines.append(f"{'  deviation':<20}" + "".join(f"{found[m]['deviation']:>12.1e}" for m in METHODS))
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the report there")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--method", help=argparse.SUPPRESS)
    parser.add_argument("--target", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments.method, arguments.target)))
        return
    rows = report(arguments.rows, arguments.repeat)
    print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": f"{os.cpu_count()} cores", "rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
