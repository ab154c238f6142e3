"""The command line: files in, files out. Every job is a function of the library; nothing here computes.

Exit codes: 0 done, 1 unexpected error, 2 wrong input (one sentence on standard error), 130 stopped by the user.
"""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from napari_mrsr import __version__
from napari_mrsr.cli import volumes
from napari_mrsr.cli.common import app, say
from napari_mrsr.errors import Cancelled, MrsrError

# isort: split
from napari_mrsr.cli import check, models, training, trust  # after the volumes, because help lists commands in the order of import

__all__ = ["app", "check", "main", "models", "training", "trust", "volumes"]

STOPPED = 130


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


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        say(f"napari-mrsr {__version__}")
        raise typer.Exit
