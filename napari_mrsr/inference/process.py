"""Settings of the process that runs networks: threads and memory allocator."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
NEVER = -1


def tune_process() -> None:
    """Keep freed memory inside the process and use every core once.

    glibc hands large temporaries back to the system after each operation; the page faults cost more than the arithmetic. The price is a
    resident size that does not shrink, so this belongs into processes of their own, never into the viewer.
    """
    if sys.platform.startswith("linux"):
        try:
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(_M_MMAP_MAX, 0)
            libc.mallopt(_M_TRIM_THRESHOLD, NEVER)
            libc.mallopt(_M_ARENA_MAX, 1)  # a thread of its own would get an arena of its own, to which the above does not apply
        except (OSError, AttributeError):  # another C library: nothing to tune
            pass
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def free_memory(device: torch.device) -> None:
    """Give memory that torch keeps for later back to a device."""
    import torch

    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def start_peak(device: torch.device) -> int:
    """Begin to watch a device's memory; gives the bytes in use, for :func:`peak_since`."""
    import torch

    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def peak_since(device: torch.device, used: int) -> int:
    """Most bytes that were in use beyond `used`; 0 for devices that do not tell."""
    import torch

    return torch.cuda.max_memory_allocated(device) - used if device.type == "cuda" else 0


def list_devices() -> list[dict[str, Any]]:
    """Devices torch can compute on, best first: name, title, free memory in bytes."""
    import psutil
    import torch

    found = []
    for index in range(torch.cuda.device_count()):
        free, _ = torch.cuda.mem_get_info(index)
        found.append({"name": f"cuda:{index}", "title": torch.cuda.get_device_name(index), "free": free})
    free = psutil.virtual_memory().available
    if torch.backends.mps.is_available():
        found.append({"name": "mps", "title": "Apple GPU", "free": free})
    found.append({"name": "cpu", "title": f"CPU ({torch.get_num_threads()} threads)", "free": free})
    return found
