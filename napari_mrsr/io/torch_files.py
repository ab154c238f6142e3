"""Reading PyTorch's own files (``.pth``, ``.pt``, ``.ckpt``): tensors and plain values, never code."""

from __future__ import annotations

import os
import pickle
import re
import struct
import zipfile
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

from napari_mrsr.errors import InputError
from napari_mrsr.io.paths import require_readable

_IGNORED = (
    "argparse.Namespace",
    *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath")),
    *(f"{module}.{name}" for module in ("numpy.core.multiarray", "numpy._core.multiarray") for name in ("scalar", "_reconstruct")),
    "numpy.dtype",
    "numpy.ndarray",
    "collections.defaultdict",
    *(f"builtins.{name}" for name in ("dict", "list", "tuple", "int", "float", "str", "bool")),
    "typing.Any",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.nodes.AnyNode",
)
"""Classes in which training programs keep options beside the weights; what they hold is passed over, and they are not imported."""

_BROKEN = (
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    AssertionError,
    OverflowError,
    ImportError,
    MemoryError,
)
"""What the reading of damaged bytes ends in."""


def read_torch_file(path: str | os.PathLike[str]) -> Any:
    """Content of a PyTorch file, read with ``weights_only=True``: tensors, numbers, strings and their containers.

    Option objects of well-known harmless classes (``argparse.Namespace``, paths, NumPy scalars, OmegaConf) come back empty, without
    their classes being imported; any other object is refused.

    Parameters
    ----------
    path : path
        Zip or older format. Tensors of a zip file are read from the disk when they are used.

    Raises
    ------
    InputError
        If the file holds other objects (which could run code), is damaged, or is no PyTorch file.
    """
    import torch

    path = require_readable(path)
    try:
        with _ignoring():
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except _BROKEN as error:
        if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise InputError(
                f"{path.name} holds more than tensors ({found[1]}), which could run code and is not loaded; "
                f"save the state dict alone (torch.save(network.state_dict(), FILE)) with the program that wrote it, and give that file."
            ) from None
        raise InputError(f"{path.name} is not a PyTorch file of tensors, or is damaged or cut off; get it anew.") from None
    except OSError as error:
        raise InputError(f"{path.name} cannot be read: {error.strerror or error}.") from None


def _ignoring() -> AbstractContextManager[Any]:
    import torch

    context = getattr(torch.serialization, "safe_globals", None)  # since torch 2.5
    return nullcontext() if context is None else context([_empty(name) for name in _IGNORED])


@cache
def _empty(full_name: str) -> type:
    """Class of that name that takes any arguments and state, and keeps nothing."""
    module, _, name = full_name.rpartition(".")
    body = {
        "__module__": module,
        "__new__": lambda cls, *_args, **_options: object.__new__(cls),
        "__init__": lambda _self, *_args, **_options: None,
        "__setstate__": lambda _self, _state: None,
    }
    return type(name, (), body)
