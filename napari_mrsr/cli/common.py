"""What the commands share: option types, reading, running with a progress bar, checks before the work."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from tqdm import tqdm

from napari_mrsr.errors import MrsrError

if TYPE_CHECKING:
    from napari_mrsr.inference import RunDone, RunOptions
    from napari_mrsr.volume import Volume

app = typer.Typer(
    name="napari-mrsr",
    help="MR super-resolution: degrade, super-resolve, compare, draw.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Orientations = Annotated[str, typer.Option(help="Thick slices: planes of both orientations averaged, or of the first or second alone.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]
Index = Annotated[int | None, typer.Option(help="Which volume of 4D inputs, from 0.")]
Axis = Annotated[str | None, typer.Option(help="Axis across slices: R, A or S (anatomical). Default: the coarsest spacing, ties S.")]
Convention = Annotated[str, typer.Option(help="mrsr-1, volume-max, fastmri or basicsr8: which voxels count, which range, which SSIM.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, mps.")]
Model = Annotated[str, typer.Option(help="A name from `napari-mrsr models`.")]
Noise = Annotated[float | None, typer.Option(help="Noise in percent of the range (default: sidecar, else estimated).")]
Protocol = Annotated[str | None, typer.Option(help="How the input was degraded; overrides its sidecar.")]
Reference = Annotated[Path | None, typer.Option(help="Second contrast of the same person, on any grid.")]
Register = Annotated[bool, typer.Option("--register", help="Move the reference rigidly onto the input first.")]
Voxel = Annotated[float | None, typer.Option(help="Thick slices: wanted spacing across slices in mm.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the noise.")]


def say(text: str) -> None:
    """Print a line of the result."""
    sys.stdout.write(text + "\n")


def read(path: Path, index: int | None) -> Volume:
    """Read a volume; the index is for those files among several that need one."""
    from napari_mrsr.errors import SeveralVolumesError
    from napari_mrsr.io import read_volume

    try:
        return read_volume(path)
    except SeveralVolumesError:
        if index is None:
            raise
        return read_volume(path, index)


def run_model(volume: Volume, options: RunOptions, reference: Volume | None = None, like: Volume | None = None, keep: Path | None = None) -> RunDone:
    """Run the engine in this process with a progress bar; finished tiles lie in the folder `keep` until the run is done."""
    from napari_mrsr.inference import Noticed, Progress, RunDone, RunStarted
    from napari_mrsr.inference import run as run_engine
    from napari_mrsr.inference.process import tune_process

    tune_process()
    started, model = time.perf_counter(), options.model
    with tqdm(
        total=100, desc=options.model, unit="%", file=sys.stderr, leave=False, disable=None, bar_format="{desc}: {percentage:3.0f}%|{bar}| {postfix}"
    ) as bar:
        for event in run_engine(volume, options, reference, like, keep=keep):
            if isinstance(event, RunStarted):
                for warning in event.warnings:
                    bar.write(f"warning: {warning}", file=sys.stderr)
                model = event.model or options.model
                bar.write(f"{model}: {event.plan}", file=sys.stderr)
            elif isinstance(event, Noticed):
                bar.write(f"warning: {event.message}", file=sys.stderr)
            elif isinstance(event, Progress):
                bar.set_postfix_str(f"{event.seconds_left:.0f} s left" if event.seconds_left is not None else "")
                bar.update(100 * event.fraction - bar.n)
            elif isinstance(event, RunDone):
                bar.write(f"{model}: done in {time.perf_counter() - started:.1f} s", file=sys.stderr)
                return event
    raise MrsrError("The run ended without a result.")


def check_image(path: Path, overwrite: bool) -> None:
    """Refuse a target image (or its sidecar) before hours of work, not after."""
    from napari_mrsr.io import WRITABLE, require_suffix, require_writable, sidecar_path

    require_writable(path, overwrite)
    require_suffix(path, WRITABLE, "image")
    require_writable(sidecar_path(path), overwrite)


def free_folder(path: Path) -> Path:
    """The path, or the first of path-2, path-3... that is not there."""
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def has_screen() -> bool:
    """Whether a window can be opened."""
    if sys.platform.startswith("linux"):
        return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return True
