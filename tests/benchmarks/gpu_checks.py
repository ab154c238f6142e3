"""Seven questions that only the device can answer (a few minutes): ``python tests/benchmarks/gpu_checks.py [--device cuda] [--json FILE]``.

They run on a CPU as well (``--tiny`` in a minute or so), which says nothing but that they run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parent))
from rows import ROWS, Row, job, options_of

HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


def timed(work: Callable[[], Any], device: str, repeat: int = 3) -> dict[str, float]:
    """Best seconds of several runs after one to warm up, and MiB added at the peak (CUDA)."""
    cuda, seconds = device.startswith("cuda"), []
    with torch.inference_mode():
        work()
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() if cuda else 0
        for _ in range(repeat):
            started = time.perf_counter()
            work()
            if cuda:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
    return {"seconds": min(seconds), "added_mib": (torch.cuda.max_memory_allocated() - before) / 2**20 if cuda else 0.0}


def network_of(row: Row, device: str) -> torch.nn.Module:
    """A row's network with random weights."""
    from napari_mrsr.networks import create

    torch.manual_seed(0)
    return create(row.architecture, row.scale, **options_of(row)).eval().to(device)


def convolutions(device: str, tiny: bool) -> dict[str, Any]:
    """1: 3D convolutions at the size of a result: speed, and largest error against float64 at both ends and in the middle."""
    shape = (12, 10, 9) if tiny else (256, 256, 180)
    found: dict[str, Any] = {"cudnn": torch.backends.cudnn.version()}
    for channels in (48, 64):
        torch.manual_seed(0)
        x, w = torch.randn(1, channels, *shape, device=device), torch.randn(channels, channels, 3, 3, 3, device=device) / (27 * channels) ** 0.5
        for name, kind in {"tf32": torch.float32, **HALF}.items():
            torch.backends.cudnn.allow_tf32 = True
            a, b = (t.to(kind).contiguous(memory_format=torch.channels_last_3d) for t in (x, w))
            row = timed(lambda a=a, b=b: F.conv3d(a, b, padding=1), device)
            y, errors = F.conv3d(a, b, padding=1), []
            for end in (4, shape[0] // 2, shape[0]):
                true = F.conv3d(a[:, :, max(0, end - 4) : end, :8, :8].double(), b.double())
                errors.append((y[:, :, max(0, end - 4) + 1 : end - 1, 1:7, 1:7].double() - true).abs().max().item())
            flop = 2 * 27 * channels**2 * float(np.prod(shape))
            found[f"{channels} channels {name}"] = {**row, "gflops": flop / row["seconds"] / 1e9, "error": max(errors)}
            del a, b, y
        del x, w
    torch.backends.cudnn.allow_tf32 = False
    return found


def attention(device: str, tiny: bool) -> dict[str, Any]:
    """2: CFTN at paper scale on the standard job, attention in windows and over the whole volume, by chunk."""
    from napari_mrsr.networks.blocks import cross_scale

    network = network_of(ROWS["cftn paper x2"], device)
    network.to(memory_format=torch.channels_last_3d)
    x = torch.rand(1, 1, *((26, 12, 10) if tiny else (128, 128, 90)), device=device)
    kind, found, kept = torch.float16 if device.startswith("cuda") else torch.bfloat16, {}, cross_scale.CHUNK_ELEMENTS_GPU
    network.set_windows(8)

    def run() -> Any:
        with torch.autocast(torch.device(device).type, kind):
            return network(x)

    found["window"] = timed(run, device)
    for part in network.cross_scale():
        part.window = None
    per_query = (x[0, 0].numel() // 64) + 48 * 6**3
    for queries in (2048, 4096, 8192, 16384):
        cross_scale.CHUNK_ELEMENTS_GPU = queries * per_query
        found[f"global, {queries} queries at a time"] = timed(run, device, 1)
    cross_scale.CHUNK_ELEMENTS_GPU = kept
    return found


def batches(device: str, tiny: bool) -> dict[str, Any]:
    """3: slices at once for the two networks of many small kernels: eager, CUDA graph, compiled; seconds per slice."""
    found: dict[str, Any] = {}
    for name in ("cohft paper x4", "transmrsr paper x8") if not tiny else ("cohft shipped x4", "transmrsr shipped x4"):
        row = ROWS[name]
        network = network_of(row, device)
        low, high = ((60, 60), (240, 240)) if row.architecture == "cohft" else ((256, 256), None)
        if tiny:
            low, high = (30, 30) if high else (64, 64), (120, 120) if high else None
        for count in (1, 2) if tiny else (1, 8, 32, 64):
            x = torch.rand(count, 1, *low, device=device)
            reference = torch.rand(count, 1, *high, device=device) if high else None
            found[f"{name}, {count} at once, eager"] = timed(lambda x=x, r=reference, n=network: n(x, reference=r), device)["seconds"] / count
            if not device.startswith("cuda"):
                continue
            graph = _graph(network, x, reference)
            found[f"{name}, {count} at once, CUDA graph"] = timed(graph.replay, device)["seconds"] / count
            compiled = torch.compile(network)
            found[f"{name}, {count} at once, compiled"] = timed(lambda x=x, r=reference, n=compiled: n(x, reference=r), device)["seconds"] / count
            del graph
    return found


def _graph(network: torch.nn.Module, x: torch.Tensor, reference: torch.Tensor | None) -> torch.cuda.CUDAGraph:
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.inference_mode(), torch.cuda.stream(stream):
        for _ in range(2):
            network(x, reference=reference)
    torch.cuda.current_stream().wait_stream(stream)
    with torch.inference_mode(), torch.cuda.graph(graph):
        network(x, reference=reference)
    return graph


def sdpa(device: str, tiny: bool) -> dict[str, Any]:
    """4: which kernels take windows of 8 x 8 with a bias, and how fast."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    windows, found = (4 if tiny else 1024), {}
    for name, kind in {"fp32": torch.float32, **HALF}.items():
        q, k, v = torch.randn(3, windows, 4, 64, 16, device=device, dtype=kind)
        bias = torch.randn(1, 4, 64, 64, device=device, dtype=kind)
        found[f"{name}, chosen"] = timed(lambda q=q, k=k, v=v, b=bias: F.scaled_dot_product_attention(q, k, v, attn_mask=b), device)["seconds"]
        for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH):
            try:
                with sdpa_kernel(backend):
                    work = timed(lambda q=q, k=k, v=v, b=bias: F.scaled_dot_product_attention(q, k, v, attn_mask=b), device)
                found[f"{name}, {backend.name}"] = work["seconds"]
            except RuntimeError:
                found[f"{name}, {backend.name}"] = None
    return found


def precision(device: str, tiny: bool) -> dict[str, Any]:
    """5: what half precision does to every shipped model: PSNR to its float32 result, and dB it costs where that result stands at 40 dB."""
    from napari_mrsr.inference import super_resolve
    from napari_mrsr.inference.precision import added_cost
    from napari_mrsr.intensity import intensity_range
    from napari_mrsr.zoo import list_models

    found = {}
    for card in (c for c in list_models() if c.learned):
        kin = (r for r in ROWS.values() if (r.architecture, bool(r.recipe)) == (card.architecture, True))
        low, reference = job(replace(next(kin), scale=card.scale), "tiny" if tiny else "small")
        options = {"reference": reference, "device": device, "noise": 0.0, "skip_air": False}
        exact = super_resolve(low, card.name, precision="float32", **options).data
        gain = intensity_range(low.data)
        for name in ("float16", "bfloat16"):
            if name == "float16" and not device.startswith("cuda"):
                continue
            image = super_resolve(low, card.name, precision=name, **options).data
            error = float(np.mean((image.astype(np.float64) - exact) ** 2)) / gain**2
            found[f"{card.name}, {name}"] = {"psnr": float(-10 * np.log10(max(error, 1e-30))), "cost_db": added_cost(exact, image, gain)}
    return found


def shares(device: str, tiny: bool) -> dict[str, Any]:
    """6: where the time of a CFTN run goes: to the device, normalising, network, cubic, back, saving."""
    from napari_mrsr.io import write_volume
    from napari_mrsr.networks import create
    from napari_mrsr.networks.blocks.resample import cubic_upsample
    from napari_mrsr.volume import Volume

    shape = (24, 16, 16) if tiny else (128, 128, 90)
    low = torch.rand(shape)
    network = create("cftn", 2, **options_of(ROWS["cftn shipped x2"])).eval().to(device)
    network.set_windows(8)
    there = low.to(device)[None, None]
    with torch.inference_mode():
        done = network(there, noise_level=0.0)
    steps: dict[str, Callable[[], Any]] = {
        "to the device": lambda: low.to(device),
        "normalising": lambda: there / there.amax(),
        "network": lambda: network(there, noise_level=0.0),
        "cubic alone": lambda: cubic_upsample(there, 2),
        "back": lambda: done.cpu(),
    }
    found = {name: timed(step, device)["seconds"] for name, step in steps.items()}
    volume = Volume(done[0, 0].float().cpu().numpy(), np.eye(4), name="result")
    with tempfile.TemporaryDirectory() as folder:
        for suffix in (".nii.gz", ".nii"):
            started = time.perf_counter()
            write_volume(volume, Path(folder) / f"out{suffix}", overwrite=True)
            found[f"saving {suffix}"] = time.perf_counter() - started
    return found


def training(device: str, tiny: bool) -> dict[str, Any]:
    """7: training steps a second of every compact network, patches and batch of its recipe, L1 loss."""
    import yaml

    import napari_mrsr
    from napari_mrsr.networks import get_architecture

    found = {}
    for name, row in ROWS.items():
        if not row.recipe:
            continue
        recipe = yaml.safe_load((Path(napari_mrsr.__file__).parent / "resources" / "recipes" / f"{row.recipe}.yaml").read_text(encoding="utf-8"))
        architecture, network = get_architecture(row.architecture), network_of(row, device).train()
        edge, batch = recipe["patches"]["size"], 1 if tiny else recipe["patches"]["batch"]
        ratio = 1 if architecture.pre_interpolated else row.scale
        fine = [ratio * edge] * architecture.dimension
        low, high = torch.rand(batch, 1, *[edge] * architecture.dimension, device=device), torch.rand(batch, 1, *fine, device=device)
        reference = high if architecture.reference != "none" else None
        optimiser = torch.optim.AdamW(network.parameters(), 1e-4)
        count, started = 0, 0.0
        while count < (2 if tiny else 50):
            if count == 1:  # the first one only warms up
                started = time.perf_counter()
            optimiser.zero_grad()
            F.l1_loss(network(low, reference=reference, noise_level=0.0), high).backward()
            optimiser.step()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            count += 1
        found[name] = (count - 1) / (time.perf_counter() - started)
    return found


CHECKS = (convolutions, attention, batches, sdpa, precision, shares, training)


def checks(device: str = "cuda", tiny: bool = False) -> dict[str, Any]:
    """All of them; one that fails says why and does not end the others."""
    found: dict[str, Any] = {"device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device, "torch": torch.__version__}
    for check in CHECKS:
        print(f"{check.__name__} ...", file=sys.stderr, flush=True)
        try:
            found[check.__name__] = check(device, tiny)
        except RuntimeError as error:
            found[check.__name__] = {"failed": str(error).splitlines()[0]}
    return found


def text(found: dict[str, Any]) -> str:
    """The findings for people."""
    lines = [f"{found['device']}, torch {found['torch']}"]
    for number, check in enumerate(CHECKS, start=1):
        lines.append(f"\n{number}. {(check.__doc__ or '').splitlines()[0].partition(': ')[2]}")
        for key, value in found[check.__name__].items():
            if isinstance(value, dict):
                value = ", ".join(f"{k} {v:.4g}" for k, v in value.items())
            lines.append(f"   {key:<48} {value if isinstance(value, str | int | None) else f'{value:.4g}'}")
    return "\n".join(lines)


def main() -> None:
    """Check and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="only whether they run")
    parser.add_argument("--json", type=Path, help="also write the findings there")
    arguments = parser.parse_args()
    found = checks(arguments.device, arguments.tiny)
    print(text(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
