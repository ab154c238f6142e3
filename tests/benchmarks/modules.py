"""Time and memory of attention modules against their formulas written out: ``python tests/benchmarks/modules.py [--full] [--json FILE]``.

Every measurement runs in a fresh process, so that its peak memory (growth of the resident set while it computes) is its own. The plain
versions below hold whole score matrices and loop over windows and heads, as one would write the papers' equations down. The two versions of
a module share weights and inputs; what they give, forward and backward, is compared too. With ``--threads 1`` seconds are those of the
processor, so that other programs do not disturb them.

Another module is one more function that builds a :class:`Problem`, and one more line in :data:`CASES`.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDES = ("ours", "plain")
PASSES = ("forward", "backward")


@dataclass(frozen=True)
class Problem:
    """Two ways to one result, the tensors it depends on (inputs and weights), and how many numbers the formula written out holds besides."""

    ours: Callable[[], Tensor]
    plain: Callable[[], Tensor]
    leaves: list[Tensor]
    formula: int = 0


@dataclass(frozen=True)
class Case:
    """A module: what it is called, how it is built for a size, the sizes measured, and those that ``--full`` adds."""

    name: str
    build: Callable[[int], Problem]
    sizes: tuple[int, ...]
    full: tuple[int, ...]
    warm: int
    """Small size whose run loads libraries and starts threads before anything is measured."""


def problem(module: nn.Module | None, inputs: list[Tensor], ours: Callable[..., Tensor], plain: Callable[..., Tensor]) -> Problem:
    """Both versions over the same inputs."""
    weights = [] if module is None else list(module.parameters())
    return Problem(lambda: ours(*inputs), lambda: plain(*inputs), [*(t.requires_grad_() for t in inputs), *weights])


# --- CFTN: cross-scale attention ----------------------------------------------------------------------------------------------------------


def plain_cross_scale_attention(q: Tensor, k: Tensor, v: Tensor, stride: int) -> Tensor:
    """Equations 6 to 8 with all scores at once; weighting and fold as the paper's transposed convolution."""
    weights = torch.softmax(torch.einsum("bxyzd,bkd->bkxyz", q, k), 1)
    return torch.cat([F.conv_transpose3d(w[None], patches, stride=stride) for w, patches in zip(weights, v, strict=True)])


def cross_scale(edge: int) -> Problem:
    """CFTN at x2 in the paper's widths, `edge` LR voxels along each axis (even)."""
    from napari_mrsr.networks.blocks.cross_scale import cross_scale_attention

    queries, keys = edge // 2, -(-edge // 4)
    q = torch.randn(1, queries, queries, queries, 27 * 24) / 5
    k = torch.randn(1, keys**3, 27 * 24) / 5
    v = torch.randn(1, keys**3, 6, 6, 6, 48).movedim(-1, 2)  # in memory as the network gives them
    both = problem(None, [q, k, v], lambda *t: cross_scale_attention(*t, 4), lambda *t: plain_cross_scale_attention(*t, 4))
    return replace(both, formula=queries**3 * (keys**3 + 48 * 6**3))  # scores and output patches


# --- DCAMSR: dual cross-attention ---------------------------------------------------------------------------------------------------------


def plain_dual_cross_attention(module: Any, x: Tensor, reference: Tensor) -> Tensor:
    """Equations 3 to 5 head by head, each with its scores at hand."""
    width = x.shape[2] // module.heads
    q = module.q(x)
    k, for_channels, for_places = module.kvv(reference).chunk(3, -1)
    places, channels = [], []
    for head in range(module.heads):
        part = slice(head * width, (head + 1) * width)
        # Tokens in rows; unit length along them.
        unit_q, unit_k = (t[..., part] / t[..., part].norm(dim=1, keepdim=True).clamp_min(1e-12) for t in (q, k))
        scores = unit_q.transpose(1, 2) @ unit_k * module.temperature_channel[head]
        channels.append((torch.softmax(scores, -1) @ for_channels[..., part].transpose(1, 2)).transpose(1, 2))
        keys, values = (module.project(t.transpose(1, 2)).transpose(1, 2) for t in (unit_k, for_places[..., part]))
        scores = unit_q @ keys.transpose(1, 2) * module.temperature_spatial[head]
        places.append(torch.softmax(scores, -1) @ values)
    # The published memory layout: (d, heads, N) read as (N, C).
    spatial = torch.stack(places, 1).permute(0, 3, 1, 2).reshape(x.shape)
    return torch.cat([module.out_spatial(spatial), module.out_channel(torch.cat(channels, -1))], -1)


def dual_cross(edge: int) -> Problem:
    """DCAMSR's first level on slices of `edge` pixels."""
    from napari_mrsr.networks.blocks.dual_cross_attention import DualCrossAttention

    module = DualCrossAttention(64, 8, (edge, edge)).eval()
    inputs = [torch.randn(1, edge**2, 64) for _ in range(2)]
    return problem(module, inputs, module, lambda x, reference: plain_dual_cross_attention(module, x, reference))


# --- Cohf-T: windows and patches, heads that attend to one another ------------------------------------------------------------------------


def plain_head_correlation(module: Any, target: Tensor, context: Tensor) -> Tensor:
    """Equations 3 to 5 of one window, (B, N, d) each: every head's scores, then every token's correlation of heads."""
    q, k, v = module.query(target), module.key(context), module.value(context)
    width = q.shape[2] // module.heads
    found = []
    for head in range(module.heads):
        part = slice(head * width, (head + 1) * width)
        found.append(torch.softmax(q[..., part] @ k[..., part].transpose(1, 2) / width**0.5, -1) @ v[..., part])
    heads = torch.stack(found, 2)
    correlation = torch.softmax(torch.einsum("bnid,bnjd->bnij", heads, heads), -1)
    return (heads + torch.einsum("bnij,bnjd->bnid", correlation, heads)).flatten(2)


def plain_window_attention(module: Any, x: Tensor) -> Tensor:
    """One window after another, compact (short distance) or dilated (long distance)."""
    target, context = module.embed_1(x), module.embed_2(x)
    g, (h, w) = module.window, x.shape[2:]
    out = torch.zeros_like(target)
    for i, j in itertools.product(range(h // g), range(w // g)):
        rows, columns = (slice(i, h, h // g), slice(j, w, w // g)) if module.dilated else (slice(g * i, g * i + g), slice(g * j, g * j + g))
        tokens = plain_head_correlation(module, *(t[:, :, rows, columns].flatten(2).transpose(1, 2) for t in (target, context)))
        out[:, :, rows, columns] = tokens.transpose(1, 2).unflatten(2, (g, g))
    return x + module.post(out)


def plain_patch_attention(module: Any, x1: Tensor, x2: Tensor) -> Tensor:
    """All patches of one image against all of the other."""
    p = module.patch
    target, context = (F.unfold(t, p, stride=p).transpose(1, 2) for t in (module.embed_1(x1), module.embed_2(x2)))
    out = plain_head_correlation(module, target, context).transpose(1, 2)
    return x1 + module.post(F.fold(out, x1.shape[2:], p, stride=p))


def short_windows(edge: int, dilated: bool = False) -> Problem:
    """Cohf-T's windows of 6 x 6 on features of `edge` pixels (a multiple of 6)."""
    from napari_mrsr.networks.blocks.head_correlation_attention import HeadCorrelationAttention

    module = HeadCorrelationAttention(32, 4, window=6, dilated=dilated)
    return problem(module, [torch.randn(1, 32, edge, edge)], module, lambda x: plain_window_attention(module, x))


def long_windows(edge: int) -> Problem:
    """The same with dilated windows."""
    return short_windows(edge, dilated=True)


def inter_modality(edge: int) -> Problem:
    """Cohf-T's patches of 5 x 5 at x2; low-resolution features of `edge` pixels (a multiple of 5)."""
    from napari_mrsr.networks.blocks.head_correlation_attention import HeadCorrelationAttention

    module = HeadCorrelationAttention(32, 4, patch=5, ratio=2)
    inputs = [torch.randn(1, 32, edge, edge), torch.randn(1, 32, 2 * edge, 2 * edge)]
    return problem(module, inputs, module, lambda x1, x2: plain_patch_attention(module, x1, x2))


# --- TransMRSR: shifted windows -----------------------------------------------------------------------------------------------------------


def plain_shifted_windows(qkv: Tensor, bias: Tensor, window: int, scale: float, shift: int) -> Tensor:
    """Roll, attend window by window and head by head with a mask from labels of regions, roll back."""
    _, height, width, _, heads, _ = qkv.shape
    rolled = qkv.roll((-shift, -shift), (1, 2))
    bands = [torch.bucketize(torch.arange(n), torch.tensor([n - window, n - shift]), right=True) for n in (height, width)]
    regions = 3 * bands[0][:, None] + bands[1]
    out = torch.zeros_like(rolled[:, :, :, 0])
    for y, x in itertools.product(range(0, height, window), range(0, width, window)):
        at = (slice(None), slice(y, y + window), slice(x, x + window))
        label = regions[at[1:]].flatten()
        mask = -100.0 * (label[:, None] != label)
        for head in range(heads):
            q, k, v = (rolled[at][:, :, :, part, head].flatten(1, 2) for part in range(3))
            attended = torch.softmax(scale * q @ k.transpose(1, 2) + bias[head] + mask, -1) @ v
            out[(*at, head)] = attended.unflatten(1, (window, window))
    return out.flatten(3).roll((shift, shift), (1, 2))


def shifted_windows(edge: int) -> Problem:
    """TransMRSR's encoder at its finest level: 64 channels in 16 heads, windows of 8 shifted by 4."""
    from napari_mrsr.networks.blocks.swin import window_attention

    qkv, bias = torch.randn(1, edge, edge, 3, 16, 4), torch.randn(16, 64, 64)
    return problem(None, [qkv, bias], lambda t, b: window_attention(t, 8, b, 1.0, 4), lambda t, b: plain_shifted_windows(t, b, 8, 1.0, 4))


CASES = {
    case.name: case
    for case in (
        Case("CFTN cross-scale", cross_scale, (20, 26, 32), (40, 52, 64), 8),
        Case("DCAMSR dual cross", dual_cross, (64, 128), (256, 320), 8),
        Case("Cohf-T short windows", short_windows, (60, 120), (240,), 12),
        Case("Cohf-T long windows", long_windows, (60, 120), (240,), 12),
        Case("Cohf-T inter-modality", inter_modality, (60, 120), (240,), 10),
        Case("TransMRSR shifted", shifted_windows, (64, 128), (256,), 16),
    )
}


# --- measuring ----------------------------------------------------------------------------------------------------------------------------


def forget_peak() -> None:
    """Let the peak of the resident set begin anew, where the system can (Linux)."""
    gc.collect()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """Largest resident set since :func:`forget_peak`, or since the process began."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def compute(task: Problem, side: str, which: str) -> tuple[list[Tensor], float]:
    """What a pass gives (the result, or gradients) and its seconds; the backward pass without the forward pass it needs."""
    forward = getattr(task, side)
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    if which == "forward":
        started = clock()
        with torch.no_grad():
            return [forward()], clock() - started
    out = forward()
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    started = clock()
    grads = torch.autograd.grad(out, task.leaves, direction, allow_unused=True)
    return [g for g in grads if g is not None], clock() - started


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """One side of one case at one size, in this process."""
    case = CASES[arguments.only]
    torch.manual_seed(0)
    compute(case.build(case.warm), arguments.side, arguments.which)
    torch.manual_seed(0)
    task = case.build(arguments.edge)
    forget_peak()
    before = psutil.Process().memory_info().rss
    found, seconds = compute(task, arguments.side, arguments.which)
    peak = peak_bytes() - before
    result = sum(t.nbytes for t in found)
    torch.save(found, arguments.target)
    del found
    for _ in range(arguments.repeat - 1):
        seconds = min(seconds, compute(task, arguments.side, arguments.which)[1])
    return {"seconds": seconds, "mib": max(peak, 0) / 2**20, "beyond_mib": max(peak - result, 0) / 2**20, "formula_mib": 4 * task.formula / 2**20}


def in_fresh_process(case: str, edge: int, which: str, side: str, arguments: argparse.Namespace, target: Path) -> dict[str, float] | None:
    """:func:`measure` in a process of its own; None where that process did not survive."""
    options = ["--only", case, "--edge", str(edge), "--which", which, "--side", side, "--target", str(target), "--repeat", str(arguments.repeat)]
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(arguments.threads)} if arguments.threads else {})}
    done = subprocess.run([sys.executable, __file__, *options], stdout=subprocess.PIPE, text=True, check=False, env=environment)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def deviation(ours: Path, plain: Path) -> float:
    """Largest difference of what two sides gave, relative to the largest value of each tensor.

    Tensors that are zero up to rounding (the gradient of a key's bias) are compared with a thousandth of the largest value of all.
    """
    first, second = torch.load(ours), torch.load(plain)
    least = 1e-3 * max(b.abs().max().item() for b in second)
    return max((a - b).abs().max().item() / max(b.abs().max().item(), least) for a, b in zip(first, second, strict=True))


def report(arguments: argparse.Namespace) -> dict[str, Any]:
    """All cases, one after another."""
    rows = []
    chosen = [case for name, case in CASES.items() if arguments.case.lower() in name.lower()]
    with tempfile.TemporaryDirectory() as folder:
        targets = {side: Path(folder) / f"{side}.pt" for side in SIDES}
        for case in chosen:
            sizes = (*case.sizes, *(case.full if arguments.full else ())) if arguments.size is None else (arguments.size,)
            for edge, which in itertools.product(sizes, (arguments.which,) if arguments.which else PASSES):
                print(f"{case.name}, {edge}, {which} ...", file=sys.stderr, flush=True)
                found = {side: in_fresh_process(case.name, edge, which, side, arguments, targets[side]) for side in SIDES}
                row: dict[str, Any] = {"case": case.name, "size": edge, "pass": which, **found}
                if found["ours"] and found["plain"]:
                    row |= {f"times_{key}": found["plain"][key] / max(found["ours"][key], 1e-9) for key in ("seconds", "mib")}
                    row["deviation"] = deviation(targets["ours"], targets["plain"])
                if found["ours"] and found["ours"]["formula_mib"] and which == "forward":
                    row["formula_over_ours"] = found["ours"]["formula_mib"] / max(found["ours"]["beyond_mib"], 1.0)
                rows.append(row)
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, threads {arguments.threads or 'all'}, torch {torch.__version__}"
    return {"machine": machine, "rows": rows}


def table(result: dict[str, Any]) -> str:
    """The report for people; ratios above 1 are in favour of ours."""
    lines = [result["machine"]]
    lines.append(
        f"{'':<24}{'size':>5}  {'pass':<9}{'ours s':>9}{'plain s':>9}{'ratio':>7}{'ours MiB':>10}{'plain MiB':>10}{'ratio':>7}{'deviation':>11}"
    )
    for row in result["rows"]:
        ours, plain = (row[side] or {"seconds": float("nan"), "mib": float("nan")} for side in SIDES)
        ratios = [f"{row[key]:.1f}" if key in row else "-" for key in ("times_seconds", "times_mib")]
        agree = f"{row['deviation']:.1e}" if "deviation" in row else "failed"
        line = f"{row['case']:<24}{row['size']:>5}  {row['pass']:<9}{ours['seconds']:>9.3f}{plain['seconds']:>9.3f}{ratios[0]:>7}"
        lines.append(f"{line}{ours['mib']:>10.1f}{plain['mib']:>10.1f}{ratios[1]:>7}{agree:>11}")
        if "formula_over_ours" in row:
            beyond = f"beyond inputs and result: ours {ours['beyond_mib']:.0f} MiB, scores and output patches {ours['formula_mib']:.0f} MiB"
            lines.append(f"{'':<31}{beyond}, {row['formula_over_ours']:.0f} times as much")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="also the large sizes (minutes, several GiB)")
    parser.add_argument("--size", type=int, help="only this size")
    parser.add_argument("--case", default="", help="only cases whose name has this in it")
    parser.add_argument("--json", type=Path, help="also write the report there")
    parser.add_argument("--threads", type=int, default=0, help="0: all")
    parser.add_argument("--repeat", type=int, default=3, help="the fastest of so many runs counts")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--edge", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--which", choices=PASSES, help="only this pass")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--target", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments)))
        return
    result = report(arguments)
    print(table(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
