"""Weights files of DCAMSR's public code (:mod:`napari_mrsr.networks.dcamsr`)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from napari_mrsr.errors import InputError

PREFIX = "network."
"""What the public trainer puts before every name."""

_MARKS = ("enc.conv_L1.weight", "decoder.pAda.conv_gamma.weight", "trans_lv3.0.epa_block.temperature2")
_DECODER_STAGES = ("L3", "L2", "L1", "x1", "x2", "x4")
_ATTENTION = {
    "temperature": "temperature_channel",
    "temperature2": "temperature_spatial",
    "out_proj": "out_channel",
    "out_proj2": "out_spatial",
    "E": "project",
    "F": "project",
}


def recognise(state: Mapping[str, Any]) -> bool:
    """Whether names look like those of the public code, with or without the trainer's prefix."""
    names = {name.removeprefix(PREFIX) for name in state}
    return names.issuperset(_MARKS)


def options(state: Mapping[str, Tensor], **given: Any) -> dict[str, Any]:
    """Constructor options of a network that these weights fit.

    Parameters
    ----------
    state : mapping
        Official names to tensors; only shapes are looked at.
    **given
        Options that weights do not tell: `scale` always, `size` where the slices are not square; others are passed on.

    Returns
    -------
    dict
        For ``create("dcamsr", **options)``.

    Raises
    ------
    InputError
        If `scale` is missing, `size` is missing or does not fit, or the file lacks the tensors that tell the options.
    """
    if "scale" not in given:
        raise InputError("DCAMSR weights do not tell for which factor they were trained: give scale, for example scale=2.")
    state = {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}
    projection, pixels = _shape(state, 2, "trans_lv1.0.epa_block.E.weight", "trans_lv1.0.epa_block.F.weight")
    found = {
        "size": _size(pixels, given.get("size")),
        "channels": _shape(state, 4, "enc.conv_L1.weight")[0],
        "heads": _shape(state, 3, "trans_lv1.0.epa_block.temperature")[0],
        "projection": projection,
        "encoder_blocks": tuple(_count(state, f"enc.blk_L{level}.") for level in (1, 2, 3)),
        "decoder_blocks": tuple(_count(state, f"decoder.blk_{stage}.") for stage in _DECODER_STAGES),
    }
    return {**given, **found}


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official names to ours; names that the public code does not have stay as they are.

    Parameters
    ----------
    state : mapping

    Returns
    -------
    dict
        For a strict ``load_state_dict``.

    Raises
    ------
    InputError
        If the two names of the shared projection of keys and values hold different tensors.
    """
    converted: dict[str, Tensor] = {}
    for official, tensor in state.items():
        ours = _name(official.removeprefix(PREFIX))
        known = converted.setdefault(ours, tensor)
        if known is not tensor and not (known.shape == tensor.shape and torch.equal(known, tensor)):
            twin = official.replace(".F.", ".E.") if ".F." in official else official.replace(".E.", ".F.")
            raise InputError(
                f"DCAMSR projects keys and values with one matrix, but {twin} and {official} differ: these weights are of another network."
            )
    return converted


def _name(name: str) -> str:
    if match := re.fullmatch(r"enc\.(conv|blk)_L([123])\.(.+)", name):
        return f"encoder.{_part(match[1])}.{int(match[2]) - 1}.{match[3]}"
    if match := re.fullmatch(r"decoder\.(conv|blk)_(L[123]|x[124])\.(.+)", name):
        return f"decoder.{_part(match[1])}.{_DECODER_STAGES.index(match[2])}.{match[3]}"
    if match := re.fullmatch(r"decoder\.merge_warp_(x[124])\.(.+)", name):
        return f"decoder.convs.{_DECODER_STAGES.index(match[1])}.{match[2]}"
    if match := re.fullmatch(r"decoder\.pAda\.conv_(shared\.0|gamma|beta)\.(.+)", name):
        return f"decoder.sam.{match[1].removesuffix('.0')}.{match[2]}"
    if match := re.fullmatch(r"decoder\.conv_out\.(.+)", name):
        return f"decoder.out.{match[1]}"
    if match := re.fullmatch(r"trans_lv([123])\.0\.epa_block\.([^.]+)(.*)", name):
        return f"dcats.{int(match[1]) - 1}.attention.{_ATTENTION.get(match[2], match[2])}{match[3]}"
    if match := re.fullmatch(r"trans_lv([123])\.0\.(.+)", name):
        return f"dcats.{int(match[1]) - 1}.{match[2]}"
    return name


def _part(kind: str) -> str:
    return "convs" if kind == "conv" else "blocks"


def _shape(state: Mapping[str, Tensor], axes: int, *names: str) -> tuple[int, ...]:
    """Shape of the first of these tensors that is there."""
    for name in names:
        if name in state:
            if state[name].ndim != axes:
                raise InputError(f"{name} has {state[name].ndim} axes where DCAMSR has {axes}: these weights are of another network.")
            return tuple(state[name].shape)
    raise InputError(f"This DCAMSR weights file has no {names[0]}: it is incomplete.")


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    """Number of residual blocks whose names begin so."""
    return len({name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)})


def _size(pixels: int, given: int | Sequence[int] | None) -> int | tuple[int, int]:
    if given is None:
        edge = math.isqrt(pixels)
        if edge * edge != pixels:
            raise InputError(f"These DCAMSR weights are for slices of {pixels} pixels that are not square: give size, for example size=(256, 320).")
        return edge
    size = (given, given) if isinstance(given, int) else tuple(given)
    if len(size) != 2 or math.prod(size) != pixels:
        raise InputError(f"These DCAMSR weights are for slices of {pixels} pixels, which size {'x'.join(map(str, size))} is not.")
    return given if isinstance(given, int) else (size[0], size[1])
