"""The viewer's side of the worker process: starts it, talks to it, survives its death."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from qtpy.QtCore import QObject, QProcess, QProcessEnvironment, QTimer, Signal  # type: ignore[attr-defined]

from napari_mrsr.errors import RunError
from napari_mrsr.inference.exchange import exchange_folder, put_volume, take_volume
from napari_mrsr.inference.options import RunOptions
from napari_mrsr.volume import Volume

GRACE_MS = 15_000
"""How long a cancelled run may take to answer before its process is ended."""

log = logging.getLogger(__name__)


class WorkerClient(QObject):
    """One worker process, started on first use and again after it died.

    A run and a probe may be asked for at the same time; the process carries them out one after the other.

    Signals
    -------
    devices(list)
        Answers :meth:`ask_devices`.
    described(dict)
        Answers :meth:`describe`; where that failed, ``problem`` says why in one sentence.
    started(dict), progress(dict), then done(Volume, float, list of Volume), cancelled() or failed(str)
        Follow :meth:`run`. ``live`` of what started is the result as it grows.
    tile(list, bool), noticed(str), rested(bool)
        In between: a block of the growing result (start and stop per axis) has new values, which may be a preview; something had to change;
        the run rests or goes on.
    probed(Volume) or probe_failed(str)
        Follow :meth:`probe`.
    tried(dict) or try_failed(str)
        Follow :meth:`try_piece`: level and text of a :class:`~napari_mrsr.inference.guard.Reason`.
    """

    devices = Signal(list)
    described = Signal(dict)
    started = Signal(dict)
    progress = Signal(dict)
    tile = Signal(list, bool)
    noticed = Signal(str)
    rested = Signal(bool)
    done = Signal(object, float, list)
    cancelled = Signal()
    failed = Signal(str)
    probed = Signal(object)
    probe_failed = Signal(str)
    tried = Signal(dict)
    try_failed = Signal(str)

    _shared: ClassVar[weakref.WeakKeyDictionary[Any, WorkerClient]] = weakref.WeakKeyDictionary()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._process: QProcess | None = None
        self._folder: Path | None = None
        self._buffer = b""
        self._users = 0
        self._number = 0
        self._run_id: int | None = None
        self._probe_id: int | None = None
        self._try_id: int | None = None
        self._probe_key: str | None = None
        self._asked: list[str] = []
        self._descriptions: dict[str, dict[str, Any]] = {}
        self._cancelling = False
        self._live: tuple[str, Volume] | None = None
        self._patience = QTimer(self)
        self._patience.setSingleShot(True)
        self._patience.timeout.connect(self._give_up)

    @classmethod
    def shared(cls, owner: object) -> WorkerClient:
        """The client that all docks of an owner (a session) share; each user ends with :meth:`release`."""
        client = cls._shared.get(owner)
        if client is None:
            client = cls._shared[owner] = cls()
        client._users += 1
        return client

    def release(self) -> None:
        """One user less; with the last one the process ends."""
        self._users -= 1
        if self._users <= 0:
            for owner in [o for o, client in self._shared.items() if client is self]:
                del self._shared[owner]
            self.close()

    @property
    def busy(self) -> bool:
        """Whether a run is under way."""
        return self._run_id is not None

    @property
    def probing(self) -> bool:
        """Whether a probe is under way."""
        return self._probe_id is not None

    @property
    def process_id(self) -> int:
        """Of the worker; 0 where it does not run."""
        return int(self._process.processId()) if self._process is not None else 0

    def ask_devices(self) -> None:
        """Ask for the list of devices; `devices` answers."""
        self._send({"command": "devices"})

    def describe(self, model: str) -> None:
        """Ask what a model's network is and which maps it shows; `described` answers, at once where it is known already."""
        if model in self._descriptions:
            self.described.emit(self._descriptions[model])
        elif model not in self._asked:
            self._asked.append(model)
            self._send({"command": "describe", "model": model})

    def forget_descriptions(self) -> None:
        """Models may have changed: ask anew next time."""
        self._descriptions.clear()

    def run(
        self,
        volume: Volume,
        options: RunOptions,
        reference: Volume | None = None,
        like: Volume | None = None,
        look: tuple[Sequence[float], int] | None = None,
    ) -> None:
        """Start a run; `started`, `progress`, then one of `done`, `cancelled`, `failed` follow.

        Parameters
        ----------
        volume, options, reference, like
            See :func:`napari_mrsr.inference.run`.
        look : tuple, optional
            Point in mm and axis across the slice on the screen: it is computed first (:meth:`look`).

        Raises
        ------
        RunError
            If a run is under way, or the volume cannot be handed over.
        """
        self._refuse_while_running()
        command = self._command("run", options=options.model_dump(mode="json"), **self._hand_over(volume=volume, reference=reference, like=like))
        self._run_id, self._cancelling = self._number, False
        if look is not None:
            self.look(*look)
        self._send(command)

    def look(self, at: Sequence[float], axis: int) -> None:
        """Tell the run what is on the screen now: world point in mm, and world axis across the slice."""
        if self.busy:
            self._send({"command": "look", "id": self._run_id, "at": [float(v) for v in at], "axis": axis})

    def pause(self, rest: bool) -> None:
        """Let the run rest, which frees the device, or go on; `rested` answers."""
        if self.busy:
            self._send({"command": "pause" if rest else "resume", "id": self._run_id})

    def probe(self, volume: Volume, options: RunOptions, reference: Volume | None, key: str, name: str, at: Sequence[float], **more: Any) -> None:
        """Ask for one internal map at a world position; `probed` or `probe_failed` answers.

        Parameters
        ----------
        volume, options, reference
            As of :meth:`run`; handed over only when `key` differs from the last probe's.
        key : str
            Stands for volume, options and reference.
        name, at, **more
            See :meth:`napari_mrsr.inference.maps.Probe.look`.

        Raises
        ------
        RunError
            If a run or another probe is under way, or the volume cannot be handed over.
        """
        self._refuse_while_running()
        if self.probing:
            raise RunError("A voxel is being looked into; wait for it.")
        self._ensure()
        more |= {"key": key, "name": name, "at": list(at)}
        if key != self._probe_key:
            more |= {"options": options.model_dump(mode="json"), **self._hand_over(volume=volume, reference=reference)}
        command = self._command("probe", **more)
        self._probe_id, self._probe_key = self._number, key
        self._send(command)

    def try_piece(self, volume: Volume, options: RunOptions, reference: Volume | None = None) -> None:
        """Ask for a small piece to be run (:func:`napari_mrsr.inference.trial.try_piece`); `tried` or `try_failed` answers.

        Raises
        ------
        RunError
            If a run is under way, or the volume cannot be handed over.
        """
        self._refuse_while_running()
        volumes = self._hand_over(volume=volume, reference=reference)
        command = self._command("try", options=options.model_dump(mode="json"), **volumes)
        self._try_id = self._number
        self._send(command)

    def cancel(self) -> None:
        """Stop the run; if the process does not answer in time it is ended."""
        if not self.busy:
            return
        self._cancelling = True
        self._send({"command": "cancel", "id": self._run_id})
        self._patience.start(GRACE_MS)

    def close(self) -> None:
        """End the process and remove what was shared; safe to call at any time and more than once."""
        process, self._process = self._process, None
        if process is not None:
            for signal in (process.readyReadStandardOutput, process.finished, process.errorOccurred):
                signal.disconnect()
            process.closeWriteChannel()
            if not process.waitForFinished(300):
                process.kill()
                process.waitForFinished(2000)
            process.deleteLater()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
        self._run_id = self._probe_id = self._try_id = None
        self._asked.clear()
        self._patience.stop()

    def _refuse_while_running(self) -> None:
        if self.busy:
            raise RunError("A run is under way; wait for it or cancel it.")

    def _hand_over(self, **volumes: Volume | None) -> dict[str, Any]:
        self._ensure()
        assert self._folder is not None
        folder = self._folder
        try:
            return {role: put_volume(v, folder) if v is not None else None for role, v in volumes.items()}
        except OSError as error:
            raise RunError(f"The volume cannot be handed to the worker process: {error.strerror}.") from None

    def _command(self, kind: str, **values: Any) -> dict[str, Any]:
        """A command with a number of its own."""
        self._number += 1
        return {"command": kind, "id": self._number, "folder": str(self._folder), **values}

    def _give_up(self) -> None:
        if self.busy and self._process is not None:
            self._process.kill()

    def _ensure(self) -> None:
        if self._process is not None:
            return
        self._folder = self._folder or exchange_folder()
        self._buffer = b""
        self._probe_key = None
        process = QProcess(self)
        environment = QProcessEnvironment.systemEnvironment()
        environment.insert("PYTHONUNBUFFERED", "1")
        process.setProcessEnvironment(environment)
        process.setProcessChannelMode(QProcess.ProcessChannelMode.ForwardedErrorChannel)
        process.readyReadStandardOutput.connect(self._read)
        process.finished.connect(self._ended)
        process.errorOccurred.connect(self._broken)
        process.start(sys.executable, ["-m", "napari_mrsr.inference.worker"])
        self._process = process

    def _send(self, command: dict[str, Any]) -> None:
        self._ensure()
        assert self._process is not None
        self._process.write((json.dumps(command) + "\n").encode())

    def _read(self) -> None:
        assert self._process is not None
        self._buffer += bytes(self._process.readAllStandardOutput().data())
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                log.warning("The worker process said something that is not an event: %r", line[:200])
                continue
            self._handle(event)

    def _handle(self, event: dict[str, Any]) -> None:
        kind, number = event["event"], event.get("id")
        if kind == "devices":
            self.devices.emit(event["devices"])
        elif kind == "described":
            self._answer(event["model"], event)
        elif number is None:
            if kind == "failed" and self._asked:  # commands without a number that can fail are descriptions, answered in order
                self._answer(self._asked[0], {"problem": event["message"]})
        elif number == self._run_id:
            self._handle_run(kind, event)
        elif number == self._try_id:
            self._try_id = None
            self.tried.emit(event) if kind == "tried" else self.try_failed.emit(event.get("message", "The piece was stopped."))
        elif number == self._probe_id:
            self._probe_id = None
            if kind == "probed":
                self.probed.emit(take_volume(event["volume"]))
            else:
                self._probe_key = None  # what failed may not have been remembered
                self.probe_failed.emit(event["message"] if kind == "failed" else "The look into the network was stopped.")

    def _handle_run(self, kind: str, event: dict[str, Any]) -> None:
        if kind == "started":
            try:
                self._live = event["live"]["path"], take_volume(event["live"])
            except FileNotFoundError:  # it was stopped before we looked; the event that says so is on its way
                return
            self.started.emit({**event, "live": self._live[1]})
        elif kind == "progress":
            self.progress.emit(event)
        elif kind == "tile":
            self.tile.emit(event["block"], event["preview"])
        elif kind == "noticed":
            self.noticed.emit(event["message"])
        elif kind == "rested":
            self.rested.emit(event["resting"])
        elif kind in ("done", "cancelled", "failed"):
            self._run_id = None
            self._patience.stop()
            if kind == "done":
                self.done.emit(self._result(event["volume"]), event["seconds"], [take_volume(v) for v in event["maps"]])
            elif kind == "cancelled":
                self.cancelled.emit()
            else:
                self.failed.emit(event["message"])

    def _result(self, description: dict[str, Any]) -> Volume:
        """The volume that was taken while it grew, or another one."""
        live, self._live = self._live, None
        if live is None or live[0] != description["path"]:
            return take_volume(description)
        return live[1].replace(name=description["name"], record=description["record"])

    def _answer(self, model: str, description: dict[str, Any]) -> None:
        if model in self._asked:
            self._asked.remove(model)
        answer = {"maps": [], "problem": "", **description, "model": model}
        if not answer["problem"]:
            self._descriptions[model] = answer
        self.described.emit(answer)

    def _broken(self, error: Any) -> None:
        if error == QProcess.ProcessError.FailedToStart:
            self._process = None
            self._lost(f"The worker process could not be started ({sys.executable}).")

    def _ended(self, code: int, *_: Any) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.deleteLater()
        self._lost(f"The worker process ended unexpectedly (code {code}); perhaps the system ran out of memory. Try a smaller tile or region.")

    def _lost(self, sentence: str) -> None:
        """Nobody will answer what is still open: say so."""
        running, probing, trying, asked = self.busy, self.probing, self._try_id is not None, list(self._asked)
        self._run_id = self._probe_id = self._try_id = None
        self._asked.clear()
        self._patience.stop()
        if running and self._cancelling:
            self.cancelled.emit()
        elif running:
            self.failed.emit(sentence)
        if probing:
            self.probe_failed.emit(sentence)
        if trying:
            self.try_failed.emit(sentence)
        for model in asked:
            self._answer(model, {"problem": sentence})
