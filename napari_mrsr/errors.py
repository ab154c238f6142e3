"""Errors that reach a user as one clear sentence."""

from __future__ import annotations


class MrsrError(Exception):
    """A problem the user can act on; its text is shown as it is, without a traceback."""


class InputError(MrsrError):
    """An input (file, layer, option) cannot be used; the text says what is wrong, where, and what to do."""


class SeveralVolumesError(InputError):
    """A 4D file holds several volumes and none was chosen.

    Attributes
    ----------
    count : int
        How many volumes the file holds.
    """

    def __init__(self, message: str, count: int) -> None:
        super().__init__(message)
        self.count = count


class OutputError(MrsrError):
    """A result cannot be written (exists already, no permission, no space)."""


class RunError(MrsrError):
    """A run failed after it had started (device lost, out of memory, worker gone)."""


class Cancelled(MrsrError):
    """The user stopped the work; nothing was written."""
