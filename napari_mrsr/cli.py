"""The command line: files in, files out. Every job is a function of the library; nothing here computes.

Exit codes: 0 done, 1 unexpected error, 2 wrong input (one sentence on standard error), 130 stopped by the user.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from tqdm import tqdm

from napari_mrsr import __version__
from napari_mrsr.errors import Cancelled, InputError, MrsrError

if TYPE_CHECKING:
    from napari_mrsr.inference import RunOptions
    from napari_mrsr.volume import Volume

STOPPED = 130

app = typer.Typer(
    name="napari-mrsr",
    help="MR super-resolution: degrade, super-resolve, compare, draw.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]
Index = Annotated[int | None, typer.Option(help="Which volume of 4D inputs, from 0.")]
Axis = Annotated[str | None, typer.Option(help="Axis across slices: R, A or S (anatomical). Default: the coarsest spacing, ties S.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the noise.")]


def main() -> None:
    """Entry point; turns errors into one sentence and an exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        app()
    except Cancelled as error:
        _stop(str(error), STOPPED)
    except MrsrError as error:
        _stop(str(error), 2)
    except SystemExit as leaving:
        if leaving.code == STOPPED:  # typer's answer to an interrupt
            _stop("Stopped; nothing was written.", STOPPED)
        raise


def _stop(sentence: str, code: int) -> None:
    sys.stderr.write(f"napari-mrsr: {' '.join(sentence.split())}\n")
    raise SystemExit(code)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


@app.command()
def demo(
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for the results (default: out, or the next free out-N).")] = None,
    window: Annotated[bool | None, typer.Option("--window/--no-window", help="Open napari (default: where there is a screen).")] = None,
    model: Annotated[str, typer.Option(help="Model to show.")] = "cftn-x2",
) -> None:
    """Degrade, super-resolve and judge the shipped T1 volume: in napari where there is a screen, else into files.

    Example: napari-mrsr demo --no-window -o out
    """
    if window or (window is None and _has_screen()):
        raise SystemExit(subprocess.call([sys.executable, "-m", "napari_mrsr.gui.demo", model]))
    from napari_mrsr.degradation import Degradation
    from napari_mrsr.degradation import degrade as degrade_volume
    from napari_mrsr.evaluation import compare as compare_volumes
    from napari_mrsr.evaluation import format_table
    from napari_mrsr.figures import write_report
    from napari_mrsr.inference import RunOptions
    from napari_mrsr.io import make_folder
    from napari_mrsr.samples import read_sample

    folder = output or _free_folder(Path("out"))
    if output is not None and output.is_dir() and any(output.iterdir()):
        raise InputError(f"{output} is not empty and is kept; choose another folder.")
    make_folder(folder)
    truth = read_sample("arc2017_T1w").replace(name="HR")
    low = degrade_volume(truth, Degradation()).replace(name="LR")
    results = [_run(low, RunOptions.create(model=name)).replace(name=name) for name in dict.fromkeys(("cubic", "back-projection", model))]
    comparison = compare_volumes(truth, results)
    _say(format_table(comparison))
    for path in write_report(low, results, truth, comparison, folder):
        _say(str(path))


@app.command()
def degrade(
    hr: Annotated[Path, typer.Argument(help="High-resolution volume.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Low-resolution volume to write.")],
    protocol: Annotated[str, typer.Option(help="gaussian, gaussian-zoom, kspace, slice-profile or bicubic.")] = "gaussian",
    scale: Annotated[int, typer.Option(help="Factor.")] = 2,
    axis: Axis = None,
    noise: Annotated[float, typer.Option(help="Rician noise in percent of the volume's range.")] = 0.0,
    seed: Seed = 0,
    index: Index = None,
    overwrite: Overwrite = False,
) -> None:
    """Make a low-resolution volume the way a paper does, with a JSON sidecar that says how.

    Example: napari-mrsr degrade T1.nii.gz --protocol gaussian --scale 2 --noise 3 --seed 0 -o T1_lr.nii.gz
    """
    from napari_mrsr.degradation import Degradation
    from napari_mrsr.degradation import degrade as degrade_volume
    from napari_mrsr.io import read_volume, write_volume

    _check_image(output, overwrite)
    degradation = Degradation.create(protocol=protocol, scale=scale, axis=axis, noise=noise, seed=seed)
    low = degrade_volume(read_volume(hr, index), degradation)
    noise_text = f", {noise:g}% Rician noise, seed {seed}" if noise else ""
    for path in write_volume(low, output, overwrite=overwrite, description=f"napari-mrsr degraded: {protocol} x{scale}{noise_text}"):
        _say(str(path))


@app.command()
def run(
    lr: Annotated[Path, typer.Argument(help="Low-resolution volume.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Super-resolved volume to write.")],
    model: Annotated[str, typer.Option(help="A name from `napari-mrsr models`.")] = "cftn-x2",
    scale: Annotated[int | None, typer.Option(help="Factor, for methods without weights.")] = None,
    protocol: Annotated[str | None, typer.Option(help="How the input was degraded; overrides its sidecar.")] = None,
    axis: Axis = None,
    reference: Annotated[Path | None, typer.Option(help="Second contrast of the same person.")] = None,
    like: Annotated[Path | None, typer.Option(help="Put the result onto this volume's grid.")] = None,
    roi: Annotated[str | None, typer.Option(help="x0,y0,z0,x1,y1,z1 in mm (RAS).")] = None,
    noise: Annotated[float | None, typer.Option(help="Noise in percent of the range (default: sidecar, else estimated).")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")] = "auto",
    tile: Annotated[int | None, typer.Option(help="Largest tile edge in LR voxels (default: planned).")] = None,
    index: Index = None,
    overwrite: Overwrite = False,
) -> None:
    """Super-resolve a volume; the result lies exactly over the input, in scanner units, in the input's axis order.

    Example: napari-mrsr run T1_lr.nii.gz --model cftn-x2 -o T1_sr.nii.gz
    """
    from napari_mrsr.inference import RunOptions
    from napari_mrsr.io import read_volume, write_volume
    from napari_mrsr.volume import Box

    _check_image(output, overwrite)
    box = Box.parse(roi) if roi is not None else None
    options = RunOptions.create(
        model=model, scale=scale, protocol=protocol, axis=axis, noise=noise, device=device, tile=tile, roi=(*box.lower, *box.upper) if box else None
    )
    volumes = {role: _read(path, index) if path else None for role, path in (("reference", reference), ("like", like))}
    result = _run(read_volume(lr, index), options, volumes["reference"], volumes["like"])
    text = f"napari-mrsr {model} x{max(result.record['run']['scale']):g} {result.record['run']['protocol']}"
    for path in write_volume(result, output, overwrite=overwrite, description=text):
        _say(str(path))


@app.command()
def compare(
    hr: Annotated[Path, typer.Argument(help="Ground truth.")],
    candidates: Annotated[list[Path], typer.Argument(metavar="SR [SR2 ...]", help="Volumes to score.")],
    mask: Annotated[Path | None, typer.Option(help="Volume whose non-zero voxels count.")] = None,
    convention: Annotated[str, typer.Option(help="mrsr-1 or volume-max.")] = "mrsr-1",
    maps: Annotated[Path | None, typer.Option(metavar="DIR", help="Also write error and gradient maps there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    index: Index = None,
    overwrite: Overwrite = False,
) -> None:
    """Score volumes against the truth on the region all of them cover; numbers say how they were computed.

    Example: napari-mrsr compare T1.nii.gz T1_sr.nii.gz T1_cubic.nii.gz --json
    """
    from napari_mrsr.evaluation import compare as compare_volumes
    from napari_mrsr.evaluation import format_table
    from napari_mrsr.figures import write_maps

    truth = _read(hr, index)
    volumes = [_read(p, index) for p in candidates]
    comparison = compare_volumes(truth, volumes, convention=convention, mask=_read(mask, index) if mask else None)
    written = write_maps(truth, volumes, maps, overwrite) if maps is not None else []
    if as_json:
        _say(json.dumps(comparison.model_dump(mode="json") | {"maps": [str(p) for p in written]}, indent=2))
        return
    _say(format_table(comparison))
    for path in written:
        _say(str(path))


@app.command()
def figure(
    hr: Annotated[Path, typer.Argument(help="Ground truth.")],
    candidates: Annotated[list[Path], typer.Argument(metavar="SR [SR2 ...]", help="Volumes to show.")],
    lr: Annotated[Path, typer.Option(help="Low-resolution volume; cubic interpolation is made from it.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="PNG, SVG or PDF.")],
    plane: Annotated[str, typer.Option(help="axial, coronal or sagittal.")] = "axial",
    position: Annotated[float | None, typer.Option(help="Slice position in mm (default: the fullest slice).")] = None,
    zoom: Annotated[str | None, typer.Option(help="Inset: x0,y0,z0,x1,y1,z1 in mm.")] = None,
    convention: Annotated[str, typer.Option(help="mrsr-1 or volume-max.")] = "mrsr-1",
    index: Index = None,
    overwrite: Overwrite = False,
) -> None:
    """Draw LR / cubic / SR / HR with zoom inset, error strip and metrics.

    Example: napari-mrsr figure T1.nii.gz T1_sr.nii.gz --lr T1_lr.nii.gz -o figure.pdf
    """
    from napari_mrsr.evaluation import compare as compare_volumes
    from napari_mrsr.figures import comparison_figure, save_figure
    from napari_mrsr.figures.save import DPI
    from napari_mrsr.inference import RunOptions
    from napari_mrsr.io import require_suffix, require_writable
    from napari_mrsr.volume import Box

    require_writable(output, overwrite)
    require_suffix(output, tuple(DPI), "figure")
    truth, low = _read(hr, index), _read(lr, index)
    cubic = _run(low, RunOptions.create(model="cubic"), like=truth).replace(name="cubic")
    shown = [cubic, *(_read(p, index) for p in candidates)]
    comparison = compare_volumes(truth, shown, convention=convention)
    drawing = comparison_figure(low, shown, truth, comparison=comparison, plane=plane, position=position, zoom=Box.parse(zoom) if zoom else None)
    _say(str(save_figure(drawing, output, overwrite)))


@app.command()
def models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List what can be run.

    Example: napari-mrsr models --json
    """
    from napari_mrsr.zoo import list_models

    cards = list_models()
    if as_json:
        _say(json.dumps({"models": [card.model_dump(mode="json") for card in cards]}, indent=2))
        return
    width = max(len(card.name) for card in cards)
    for card in cards:
        _say(f"{card.name:<{width}}  {'x' + str(card.scale) if card.scale else 'any'}  {card.title}: {card.summary}")


@app.command()
def info() -> None:
    """Versions, devices and graphics, to paste into a support request.

    Example: napari-mrsr info
    """
    from napari_mrsr.diagnostics import diagnostics

    for key, value in diagnostics().items():
        _say(f"{key}: {value}")


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe.")],
    data: Annotated[Path | None, typer.Option(help="Folder of the volumes (default: the recipe's).")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for weights and card (default: your model folder).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")] = "auto",
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps, instead of the recipe's.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Train a network by a recipe; its weights and card then appear in the model list.

    Example: napari-mrsr train resources/recipes/cftn_x2_compact.yaml --data ../shared/data
    """
    from napari_mrsr.inference.process import tune_process
    from napari_mrsr.training.jobs import train_to_files
    from napari_mrsr.training.recipe import load_recipe

    tune_process()
    plan = load_recipe(recipe, root=data, steps=steps)
    for path in train_to_files(plan, output, resume=resume, accelerator=device, overwrite=overwrite, say=lambda t: tqdm.write(t, sys.stderr)):
        _say(str(path))


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A name from `napari-mrsr models`.")],
    data: Annotated[list[Path], typer.Option(help="Test volumes (high-resolution); repeat for several.")],
    noise: Annotated[list[float] | None, typer.Option(help="Noise levels in percent; repeat for several.")] = None,
    card: Annotated[bool, typer.Option("--card", help="Write the table into the model's card.")] = False,
) -> None:
    """Score a model against every classic method on test volumes, as its card's table.

    Example: napari-mrsr evaluate cftn-x2 --data sub-nvn_T1w.nii.gz --noise 0 --noise 3
    """
    from napari_mrsr.inference.process import tune_process
    from napari_mrsr.training.jobs import evaluate_model

    tune_process()
    command = f"napari-mrsr evaluate {model} " + " ".join(f"--data {p.name}" for p in data) + "".join(f" --noise {n:g}" for n in noise or [0.0])
    for line in evaluate_model(model, data, noise or [0.0], command if card else None):
        _say(line)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        _say(f"napari-mrsr {__version__}")
        raise typer.Exit


def _read(path: Path, index: int | None) -> Volume:
    """Read a volume; the index is for those files among several that need one."""
    from napari_mrsr.errors import SeveralVolumesError
    from napari_mrsr.io import read_volume

    try:
        return read_volume(path)
    except SeveralVolumesError:
        if index is None:
            raise
        return read_volume(path, index)


def _run(volume: Volume, options: RunOptions, reference: Volume | None = None, like: Volume | None = None) -> Volume:
    """Run the engine in this process with a progress bar."""
    from napari_mrsr.inference import Progress, RunDone, RunStarted
    from napari_mrsr.inference import run as run_engine
    from napari_mrsr.inference.process import tune_process

    tune_process()
    started = time.perf_counter()
    with tqdm(
        total=100, desc=options.model, unit="%", file=sys.stderr, leave=False, disable=None, bar_format="{desc}: {percentage:3.0f}%|{bar}| {postfix}"
    ) as bar:
        for event in run_engine(volume, options, reference, like):
            if isinstance(event, RunStarted):
                for warning in event.warnings:
                    bar.write(f"warning: {warning}", file=sys.stderr)
                bar.write(f"{options.model}: {event.plan}", file=sys.stderr)
            elif isinstance(event, Progress):
                bar.set_postfix_str(f"{event.seconds_left:.0f} s left" if event.seconds_left is not None else "")
                bar.update(100 * event.fraction - bar.n)
            elif isinstance(event, RunDone):
                bar.write(f"{options.model}: done in {time.perf_counter() - started:.1f} s", file=sys.stderr)
                return event.volume
    raise MrsrError("The run ended without a result.")


def _check_image(path: Path, overwrite: bool) -> None:
    """Refuse a target image (or its sidecar) before hours of work, not after."""
    from napari_mrsr.io import WRITABLE, require_suffix, require_writable, sidecar_path

    require_writable(path, overwrite)
    require_suffix(path, WRITABLE, "image")
    require_writable(sidecar_path(path), overwrite)


def _free_folder(path: Path) -> Path:
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def _has_screen() -> bool:
    if sys.platform.startswith("linux"):
        return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return True
