"""The viewer's side of the worker process: starts it, talks to it, survives its death."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

from qtpy.QtCore import QObject, QProcess, QProcessEnvironment, QTimer, Signal  # type: ignore[attr-defined]

from napari_mrsr.inference.exchange import exchange_folder, put_volume, take_volume
from napari_mrsr.inference.options import RunOptions
from napari_mrsr.volume import Volume

GRACE_MS = 15_000
"""How long a cancelled run may take to answer before its process is ended."""

log = logging.getLogger(__name__)


class WorkerClient(QObject):
    """One worker process, started on first use and again after it died.

    Signals
    -------
    devices(list), started(dict), progress(dict), done(Volume, float), cancelled(), failed(str)
    """

    devices = Signal(list)
    started = Signal(dict)
    progress = Signal(dict)
    done = Signal(object, float)
    cancelled = Signal()
    failed = Signal(str)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._process: QProcess | None = None
        self._folder: Path | None = None
        self._buffer = b""
        self._number = 0
        self._busy = False
        self._cancelling = False
        self._patience = QTimer(self)
        self._patience.setSingleShot(True)
        self._patience.timeout.connect(self._give_up)

    @property
    def busy(self) -> bool:
        """Whether a run is under way."""
        return self._busy

    @property
    def process_id(self) -> int:
        """Of the worker; 0 where it does not run."""
        return int(self._process.processId()) if self._process is not None else 0

    def ask_devices(self) -> None:
        """Ask for the list of devices; `devices` answers."""
        self._send({"command": "devices"})

    def run(self, volume: Volume, options: RunOptions, reference: Volume | None = None, like: Volume | None = None) -> None:
        """Start a run; `started`, `progress`, then one of `done`, `cancelled`, `failed` follow."""
        if self._busy:
            self.failed.emit("A run is under way; wait for it or cancel it.")
            return
        self._ensure()
        assert self._folder is not None
        self._number += 1
        self._busy, self._cancelling = True, False
        volumes = {"volume": volume, "reference": reference, "like": like}
        try:
            shared = {role: put_volume(v, self._folder) if v is not None else None for role, v in volumes.items()}
        except OSError as error:
            self._busy = False
            self.failed.emit(f"The volume cannot be handed to the worker process: {error.strerror}.")
            return
        self._send({"command": "run", "id": self._number, "folder": str(self._folder), "options": options.model_dump(mode="json"), **shared})

    def cancel(self) -> None:
        """Stop the run; if the process does not answer in time it is ended."""
        if not self._busy:
            return
        self._cancelling = True
        self._send({"command": "cancel", "id": self._number})
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
        self._busy = False
        self._patience.stop()

    def _give_up(self) -> None:
        if self._busy and self._process is not None:
            self._process.kill()

    def _ensure(self) -> None:
        if self._process is not None:
            return
        self._folder = self._folder or exchange_folder()
        self._buffer = b""
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
        kind = event["event"]
        if kind == "devices":
            self.devices.emit(event["devices"])
        elif event.get("id") != self._number:
            return
        elif kind == "started":
            self.started.emit(event)
        elif kind == "progress":
            self.progress.emit(event)
        elif kind in ("done", "cancelled", "failed"):
            self._busy = False
            self._patience.stop()
            if kind == "done":
                self.done.emit(take_volume(event["volume"]), event["seconds"])
            elif kind == "cancelled":
                self.cancelled.emit()
            else:
                self.failed.emit(event["message"])

    def _broken(self, error: Any) -> None:
        if error == QProcess.ProcessError.FailedToStart:
            self._process = None
            was_busy, self._busy = self._busy, False
            self.failed.emit(f"The worker process could not be started ({sys.executable}).") if was_busy else None

    def _ended(self, code: int, *_: Any) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.deleteLater()
        self._patience.stop()
        if not self._busy:
            return
        self._busy = False
        if self._cancelling:
            self.cancelled.emit()
        else:
            self.failed.emit(
                f"The worker process ended unexpectedly (code {code}); perhaps the system ran out of memory. Try a smaller tile or region."
            )
