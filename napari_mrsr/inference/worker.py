"""The worker process: ``python -m napari_mrsr.inference.worker``.

Reads one JSON command per line from standard input and writes one JSON event per line to standard output:

``{"command": "devices"}``
    answers ``{"event": "devices", "devices": [...]}``.
``{"command": "run", "id": n, "folder": F, "options": {...}, "volume": V, "reference": V, "like": V}``
    answers ``started``, ``progress``..., then one of ``done`` (with the result and its maps), ``cancelled``, ``failed`` (with a sentence).
``{"command": "describe", "model": M}``
    answers ``described``: what the model's network is and which internal maps it can show; or ``failed`` without an id.
``{"command": "probe", "id": n, "folder": F, "key": K, "options": {...}, "volume": V, "reference": V, "name": M, "at": [x, y, z], ...}``
    answers ``probed`` (with the map) or ``failed``. The volumes are remembered under the key, so that the next probe with it leaves them out.
``{"command": "cancel", "id": n}``
    stops run n.

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
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from napari_mrsr.errors import Cancelled, MrsrError, RunError
from napari_mrsr.inference.events import Progress, RunDone, RunStarted
from napari_mrsr.inference.exchange import put_volume, take_volume
from napari_mrsr.inference.options import RunOptions
from napari_mrsr.inference.process import list_devices, tune_process
from napari_mrsr.volume import Volume

if TYPE_CHECKING:
    from napari_mrsr.inference.maps import Probe


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
        self._cancelled: set[int] = set()
        self._probe: tuple[str, Probe] | None = None

    def serve(self, commands: TextIO) -> None:
        """Work until `commands` ends; cancel commands are heard while a run is under way."""
        threading.Thread(target=self._listen, args=(commands,), daemon=True).start()
        while (command := self._commands.get()) is not None:
            if command.get("command") == "devices":
                self._send("devices", devices=list_devices())
            elif command.get("command") == "run":
                self._guarded(self._run, command)
            elif command.get("command") == "probe":
                self._guarded(self._look, command)
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
            if command.get("command") == "cancel":
                self._cancelled.add(command.get("id", -1))
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

    def _run(self, command: dict[str, Any]) -> None:
        from napari_mrsr.inference.engine import run

        number, folder = command["id"], Path(command["folder"])
        volume, reference, like = self._volumes(command, "volume", "reference", "like")
        options = RunOptions.create(**command["options"])
        for event in run(_given(volume), options, reference, like, lambda: number in self._cancelled):
            if isinstance(event, RunStarted):
                self._send("started", id=number, plan=event.plan, device=event.device, tiles=event.tiles, warnings=list(event.warnings))
            elif isinstance(event, Progress):
                self._send("progress", id=number, fraction=event.fraction, seconds_left=event.seconds_left, tile=event.tile, tiles=event.tiles)
            elif isinstance(event, RunDone):
                maps = [_hand_over(v, folder) for v in event.maps]
                self._send("done", id=number, seconds=event.seconds, volume=_hand_over(event.volume, folder), maps=maps)

    def _look(self, command: dict[str, Any]) -> None:
        from napari_mrsr.inference.maps import Probe

        number = command["id"]
        if self._probe is None or self._probe[0] != command["key"]:
            self._probe = None  # the old one's memory goes before the new one's comes
            volume, reference = self._volumes(command, "volume", "reference")
            options = RunOptions.create(**command["options"])
            self._probe = (command["key"], Probe(_given(volume), options, reference, lambda: number in self._cancelled))
        found = self._probe[1].look(command["name"], command["at"], command.get("channel"), command.get("stack"))
        self._send("probed", id=number, volume=_hand_over(found, Path(command["folder"])))

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
