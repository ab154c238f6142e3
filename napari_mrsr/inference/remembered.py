"""What was found out on this machine and is kept between runs: small JSON files in the user's cache."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import platformdirs
import torch

log = logging.getLogger(__name__)


def cache_file(name: str) -> Path:
    """File of that name in the user's cache."""
    return Path(platformdirs.user_cache_dir("napari-mrsr")) / name


def recall(path: Path) -> dict[str, Any]:
    """Content of a file; empty where it is missing or broken."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def keep(path: Path, known: dict[str, Any]) -> None:
    """Replace a file whole; a cache that cannot be written is only logged."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(known, indent=1), encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        log.info("%s is not kept: %s", path.name, error)


def circumstances(device: torch.device) -> str:
    """What decides speed and rounding beside the network: program, device, threads."""
    title = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return "|".join([torch.__version__, title, str(torch.get_num_threads())])
