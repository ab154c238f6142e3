"""What is remembered from one session to the next: one small JSON file in the user's configuration folder."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import platformdirs

log = logging.getLogger(__name__)


def settings_file() -> Path:
    """Where the settings lie."""
    return Path(platformdirs.user_config_dir("napari-mrsr")) / "settings.json"


def recall(name: str, default: Any) -> Any:
    """Remembered value, or `default` where nothing of the default's type is remembered (an unreadable file counts as empty)."""
    value = _read().get(name, default)
    return value if default is None or isinstance(value, type(default)) else default


def remember(name: str, value: Any) -> None:
    """Keep a JSON-ready value; a folder that cannot be written is logged, for no work depends on it."""
    path = settings_file()
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({**_read(), name: value}, indent=1))
        partial.replace(path)
    except OSError as error:
        log.warning("Settings are not kept: %s.", error)


def _read() -> dict[str, Any]:
    try:
        found = json.loads(settings_file().read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
