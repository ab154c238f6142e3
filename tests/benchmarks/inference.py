"""Time, memory and exactness of a network on the shipped head: ``python tests/benchmarks/inference.py [--json FILE]``.

Every method runs in a fresh process, so that its peak memory is its own. The network is compared with MONAI's sliding-window inference over
the same weights (windows of 32^3, overlap 0.25, float32), with cubic interpolation, and with itself on the whole volume in one piece.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from napari_mrsr.degradation import Degradation, degrade
from napari_mrsr.evaluation import compare
from napari_mrsr.evaluation.metrics import psnr
from napari_mrsr.intensity import intensity_range
from napari_mrsr.samples import read_sample
from napari_mrsr.volume import Volume
from napari_mrsr.zoo import list_models

SAMPLE = "arc2017_T1w"
WHOLE = 100_000
UNTILED = "untiled"
SLIDING = "monai 32^3"


def low_resolution(shape: tuple[int, int, int]) -> tuple[Volume, Volume]:
    """Truth and its low-resolution volume of that shape, cut from the middle of the sample."""
    truth = read_sample(SAMPLE).replace(name="HR")
    starts = [(n - 2 * m) // 2 for n, m in zip(truth.shape, shape, strict=True)]
    if min(starts) < 0:
        raise SystemExit(f"The sample allows at most {tuple(n // 2 for n in truth.shape)} low-resolution voxels.")
    truth = truth.crop([slice(s, s + 2 * m) for s, m in zip(starts, shape, strict=True)])
    return truth, degrade(truth, Degradation())


def methods(model: str, tiles: list[int]) -> dict[str, dict]:
    """What is measured, by label."""
    return {
        "cubic": {"model": "cubic"},
        SLIDING: {"model": model, "sliding": True},
        UNTILED: {"model": model, "tile": WHOLE},
        f"{model} planned": {"model": model},
        **{f"{model} tile {t}": {"model": model, "tile": t} for t in tiles},
    }


def sliding_window(volume: Volume, model: str, device: str) -> np.ndarray:
    """MONAI's inference over the same network and the same normalised input."""
    import torch
    from monai.inferers import sliding_window_inference

    from napari_mrsr.inference import RunOptions, prepare
    from napari_mrsr.inference.plan import pick_device
    from napari_mrsr.zoo import get_card, load_network

    where = pick_device(device)
    job = prepare(volume, RunOptions(model=model))
    network = load_network(get_card(model)).to(where)
    data = torch.from_numpy(np.ascontiguousarray(volume.data, np.float32) / np.float32(job.gain))[None, None].to(where)
    with torch.inference_mode():
        out = sliding_window_inference(data, (32, 32, 32), 1, lambda x: network(x, noise_level=job.noise_sigma / job.gain), overlap=0.25)
    return out[0, 0].float().cpu().numpy() * np.float32(job.gain)


def measure(label: str, arguments: argparse.Namespace, target: Path) -> dict[str, float | str]:
    """Run one method in this process."""
    from napari_mrsr.inference import super_resolve
    from napari_mrsr.inference.process import tune_process

    tune_process()
    _, low = low_resolution(arguments.size)
    what = methods(arguments.model, arguments.tile)[label]
    # Imports and threads are not what is measured.
    super_resolve(low.crop([slice(0, 8), slice(40, 48), slice(40, 48)]), what["model"], device=arguments.device, noise=0)
    before = psutil.Process().memory_info().rss
    started = time.perf_counter()
    if what.pop("sliding", False):
        data, plan = sliding_window(low, what["model"], arguments.device), "overlap 0.25, float32"
    else:
        result = super_resolve(low, device=arguments.device, **what)
        data, plan = result.data, result.record["run"]["plan"]
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    np.save(target, data)
    return {"seconds": seconds, "peak_gib": peak / 2**30, "added_gib": (peak - before) / 2**30, "plan": plan}


def in_fresh_process(label: str, arguments: argparse.Namespace, target: Path) -> dict:
    """Run one method in a process of its own."""
    options = ["--only", label, "--target", str(target), "--model", arguments.model, "--device", arguments.device]
    options += ["--size", ",".join(map(str, arguments.size)), "--tile", *map(str, arguments.tile)]
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(arguments.threads)} if arguments.threads else {})}
    done = subprocess.run([sys.executable, __file__, *options], stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def report(arguments: argparse.Namespace) -> dict:
    """All methods, one after another, and what they are worth."""
    truth, low = low_resolution(arguments.size)
    gain = intensity_range(truth.data)
    rows: dict[str, dict] = {}
    arrays: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        for label in methods(arguments.model, arguments.tile):
            print(f"{label} ...", file=sys.stderr, flush=True)
            runs = [in_fresh_process(label, arguments, Path(folder) / "out.npy") for _ in range(arguments.repeat)]
            rows[label] = min(runs, key=lambda r: r["seconds"])
            arrays[label] = np.load(Path(folder) / "out.npy")
    grid = truth.affine
    scores = compare(truth, [Volume(data, grid, name=label) for label, data in arrays.items()]).results
    for score in scores:
        row = rows[score.name]
        row["psnr"], row["ssim"] = score.psnr, score.ssim
        row["times_monai"] = row["seconds"] / rows[SLIDING]["seconds"]
        row["times_cubic"] = row["seconds"] / rows["cubic"]["seconds"]
        row["psnr_untiled"] = row["deviation_untiled"] = None
        if score.name not in (UNTILED, "cubic"):
            row["psnr_untiled"] = min(psnr(arrays[UNTILED], arrays[score.name], gain), 999.0)
            row["deviation_untiled"] = float(np.abs(arrays[score.name] - arrays[UNTILED]).max() / gain)
    return {
        "sample": SAMPLE,
        "low_resolution": list(low.shape),
        "convention": "mrsr-1",
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, threads {arguments.threads or 'all'}",
        "device": arguments.device,
        "methods": rows,
    }


def table(result: dict) -> str:
    """The report for people; deviations are fractions of the range."""
    size = "x".join(map(str, result["low_resolution"]))
    lines = [f"{result['sample']}, LR {size}, {result['machine']}, device {result['device']}, {result['convention']}"]
    lines.append(
        f"{'':<20}{'seconds':>9}{'x MONAI':>9}{'x cubic':>9}{'peak GiB':>10}{'PSNR':>8}{'SSIM':>8}{'PSNR to untiled':>17}{'max deviation':>15}"
    )
    for label, row in result["methods"].items():
        exact = f"{row['psnr_untiled']:>15.1f}{row['deviation_untiled']:>15.1e}" if row["psnr_untiled"] is not None else f"{'-':>15}{'-':>15}"
        line = f"{label:<20}{row['seconds']:>9.2f}{row['times_monai']:>9.2f}{row['times_cubic']:>9.1f}{row['peak_gib']:>10.2f}"
        lines.append(f"{line}{row['psnr']:>8.2f}{row['ssim']:>8.4f}{exact}  {row['plan']}")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the report there")
    parser.add_argument("--model", default="cftn-x2")
    parser.add_argument("--size", type=lambda t: tuple(int(n) for n in t.split(",")), default=(80, 128, 128), help="low-resolution voxels")
    parser.add_argument("--tile", type=int, nargs="*", default=[32, 64], help="tile edges to measure beside the planned one")
    parser.add_argument("--threads", type=int, default=0, help="0: all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--target", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments, arguments.target)))
        return
    if arguments.model not in [card.name for card in list_models() if card.learned]:
        raise SystemExit(f"There is no network {arguments.model!r} with weights here.")
    result = report(arguments)
    print(table(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
