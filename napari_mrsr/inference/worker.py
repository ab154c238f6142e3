"""The worker process: ``python -m napari_mrsr.inference.worker``.

Reads one JSON command per line from standard input and writes one JSON event per line to standard output:

``{"command": "devices"}``
    answers ``{"event": "devices", "devices": [...]}``.
``{"command": "run", "id": n, "folder": F, "options": {...}, "volume": V, "reference": V, "like": V}``
    answers ``started`` (with the result as it grows), ``tile``, ``progress``, ``noticed``, ``rested``..., then one of ``done`` (with the result,
    of the same path if it is the one that grew, and its maps), ``cancelled``, ``failed`` (with a sentence).
``{"command": "describe", "model": M}``
    answers ``described``: what the model's network is and which internal maps it can show; or ``failed`` without an id.
``{"command": "probe", "id": n, "folder": F, "key": K, "options": {...}, "volume": V, "reference": V, "name": M, "at": [x, y, z], ...}``
    answers ``probed`` (with the map) or ``failed``. The volumes are remembered under the key, so that the next probe with it leaves them out.
``{"command": "try", "id": n, "options": {...}, "volume": V, "reference": V}``
    answers ``tried`` (level and text of what a small piece said) or ``failed``.
``{"command": "cancel", "id": n}``, ``"pause"``, ``"resume"``, ``{"command": "look", "id": n, "at": [x, y, z], "axis": a}``
    stop run n, let it rest or go on, say what is on the screen. A look may come before the run it is for.

It ends when its input ends, so it never outlives the program that started it.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import sys
import threading
import traceback
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from napari_mrsr.errors import Cancelled, MrsrError, RunError
from napari_mrsr.inference.control import Control
from napari_mrsr.inference.events import Noticed, Progress, Rested, RunDone, RunStarted, TileDone
from napari_mrsr.inference.exchange import describe_mapped, put_volume, take_volume
from napari_mrsr.inference.options import RunOptions
from napari_mrsr.inference.process import list_devices, tune_process
from napari_mrsr.inference.store import forget_file
from napari_mrsr.volume import Volume

if TYPE_CHECKING:
    from napari_mrsr.inference.maps import Probe


STRINGS: Mapping[str, Callable[[Control, dict[str, Any]], None]] = {
    "cancel": lambda control, _: control.cancel(),
    "pause": lambda control, _: control.pause(),
    "resume": lambda control, _: control.resume(),
    "look": lambda control, command: control.look(command["at"], command["axis"]),
}
"""Commands that are heard while a run is under way."""


class Worker:
    """Carries out commands one after another.

    Parameters
    ----------
    answers : text stream
        Where events go.
    """

    def __init__(self, answers: TextIO) -> None:
        self._answers = answers
        self._commands: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._controls: defaultdict[int, Control] = defaultdict(Control)
        self._probe: tuple[str, Probe] | None = None

    def serve(self, commands: TextIO) -> None:
        """Work until `commands` ends; those of :data:`STRINGS` are heard while a run is under way."""
        threading.Thread(target=self._listen, args=(commands,), daemon=True).start()
        while (command := self._commands.get()) is not None:
            if command.get("command") == "devices":
                self._send("devices", devices=list_devices())
            elif command.get("command") == "run":
                self._guarded(self._run, command)
            elif command.get("command") == "probe":
                self._guarded(self._look, command)
            elif command.get("command") == "try":
                self._guarded(self._try, command)
            elif command.get("command") == "describe":
                self._guarded(self._describe, command)

    def _listen(self, commands: TextIO) -> None:
        for line in commands:
            try:
                command = json.loads(line)
            except ValueError:
                continue
            if not isinstance(command, dict):
                continue
            if command.get("command") in STRINGS:
                STRINGS[command["command"]](self._controls[command.get("id", -1)], command)
            else:
                self._commands.put(command)
        # The owner is gone: nobody waits for the rest of a run.
        os._exit(0)

    def _guarded(self, job: Callable[[dict[str, Any]], None], command: dict[str, Any]) -> None:
        number = command.get("id")
        try:
            job(command)
        except Cancelled:
            self._send("cancelled", id=number)
        except MrsrError as error:
            self._send("failed", id=number, message=str(error))
        except Exception as error:  # noqa: BLE001 - a worker reports everything; the viewer shows it
            traceback.print_exc()
            self._send("failed", id=number, message=f"Unexpected {type(error).__name__}: {error}")
        finally:
            self._controls.pop(number if number is not None else -1, None)

    def _run(self, command: dict[str, Any]) -> None:
        from napari_mrsr.inference.engine import run

        number, folder = command["id"], Path(command["folder"])
        volume, reference, like = self._volumes(command, "volume", "reference", "like")
        options = RunOptions.create(**command["options"])
        live: Volume | None = None
        for event in run(_given(volume), options, reference, like, self._controls[number], folder):
            if isinstance(event, RunStarted):
                live = event.live
                facts = {"plan": event.plan, "device": event.device, "tiles": event.tiles, "warnings": list(event.warnings)}
                self._send("started", id=number, live=describe_mapped(_given(live)), **facts)
            elif isinstance(event, TileDone):
                self._send("tile", id=number, block=event.block, preview=event.preview)
            elif isinstance(event, Progress):
                self._send("progress", id=number, fraction=event.fraction, seconds_left=event.seconds_left, tile=event.tile, tiles=event.tiles)
            elif isinstance(event, Noticed):
                self._send("noticed", id=number, message=event.message)
            elif isinstance(event, Rested):
                self._send("rested", id=number, resting=event.resting)
            elif isinstance(event, RunDone):
                result, *maps = (_hand_over(v, folder) for v in (event.volume, *event.maps))
                grown = _given(live)
                if event.volume.data is not grown.data:
                    forget_file(grown.data)
                self._send("done", id=number, seconds=event.seconds, volume=result, maps=maps)

    def _look(self, command: dict[str, Any]) -> None:
        from napari_mrsr.inference.maps import Probe

        number = command["id"]
        if self._probe is None or self._probe[0] != command["key"]:
            self._probe = None  # the old one's memory goes before the new one's comes
            volume, reference = self._volumes(command, "volume", "reference")
            options = RunOptions.create(**command["options"])
            self._probe = (command["key"], Probe(_given(volume), options, reference, lambda: self._controls[number].cancelled))
        found = self._probe[1].look(command["name"], command["at"], command.get("channel"), command.get("stack"))
        self._send("probed", id=number, volume=_hand_over(found, Path(command["folder"])))

    def _try(self, command: dict[str, Any]) -> None:
        from napari_mrsr.inference.trial import try_piece

        volume, reference = self._volumes(command, "volume", "reference")
        reason = try_piece(_given(volume), RunOptions.create(**command["options"]), reference)
        self._send("tried", id=command["id"], level=reason.level.value, text=reason.text)

    def _describe(self, command: dict[str, Any]) -> None:
        from napari_mrsr.zoo import get_card
        from napari_mrsr.zoo.description import describe

        self._send("described", **describe(get_card(command["model"])).as_dict())

    @staticmethod
    def _volumes(command: dict[str, Any], *roles: str) -> list[Volume | None]:
        return [take_volume(command[role]) if command.get(role) else None for role in roles]

    def _send(self, event: str, **values: Any) -> None:
        self._answers.write(json.dumps({"event": event, **values}) + "\n")
        self._answers.flush()


def _given(volume: Volume | None) -> Volume:
    if volume is None:
        raise RunError("No volume was given.")
    return volume


def _hand_over(volume: Volume, folder: Path) -> dict[str, Any]:
    if isinstance(volume.data, np.memmap):
        return describe_mapped(volume)
    try:
        return put_volume(volume, folder)
    except OSError as error:
        raise RunError(f"The result could not be handed over, there is no space for it in {folder.parent}: {error.strerror or error}.") from None


def main() -> None:
    """Entry point of the process."""
    # Libraries may print: only events may reach the owner.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    logging.basicConfig(level=logging.WARNING)
    tune_process()
    Worker(answers).serve(sys.stdin)


if __name__ == "__main__":
    main()
