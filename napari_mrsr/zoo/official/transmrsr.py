"""Weights files of TransMRSR's public code: the network itself and the StyleSwin generator of its first stage."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from napari_mrsr.errors import InputError
from napari_mrsr.io import require_readable

if TYPE_CHECKING:
    from napari_mrsr.networks.transmrsr import TransMRSR

Kind = Literal["transmrsr", "styleswin"]
Centroids = Tensor | Sequence[Sequence[float]] | str | os.PathLike[str]

_ENTRIES = ("g_ema", "net_G_I", "state_dict")
"""Where training checkpoints keep the weights."""

_PREFIXES = ("module.", "network.")
_MARKS: dict[Kind, tuple[str, ...]] = {
    "transmrsr": ("conv2d.conv_L1.weight", "final_layers.weight", "generator.input.input", "conv_last.weight"),
    "styleswin": ("style.1.weight", "input.input", "to_rgbs.0.conv.weight"),
}
_UNUSED = ("MAB.", "fusion_convs.")
_BUFFERS = re.compile(r"relative_position_index|attn_mask2?|_float_tensor|kernel")

_BLOCK = {
    "attn.relative_position_bias_table": "bias.table",
    "attn.0.relative_position_bias_table": "biases.0.table",
    "attn.1.relative_position_bias_table": "biases.1.table",
    "attn.qkv": "qkv",
    "attn.proj": "project",
    "proj": "project",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
}
_WHOLE = {"patch_embed.norm": "embed", "norm": "style_norm", "final_layers": "to_styles", "conv_last": "last"}
_STAGES = {"conv2d": "shallow", "conv_deep": "deep"}


def recognise(state: Mapping[str, Any]) -> Kind | Literal[False]:
    """Which network of the public code a weights file holds.

    Parameters
    ----------
    state : mapping
        Names to tensors, with or without the trainer's prefixes, or a training checkpoint around them.

    Returns
    -------
    str or False
        ``"transmrsr"``, ``"styleswin"`` (generator of stage 1), or False.
    """
    names = _weights(state).keys()
    return next((kind for kind, marks in _MARKS.items() if names >= set(marks)), False)


def options(state: Mapping[str, Any], **given: Any) -> dict[str, Any]:
    """Constructor options of a network that these weights fit.

    Parameters
    ----------
    state : mapping
        As for :func:`recognise`; only shapes are looked at.
    **given
        What weights do not tell. For TransMRSR `scale` always; `truncation` (``"nearest"``, ``"farthest"`` as the public code does by mistake,
        or None), `psi`, `centroids` (a table or an ``.npy`` file, which :func:`convert` puts among the weights), `skip` and others.

    Returns
    -------
    dict
        For ``create("transmrsr", **options)`` or ``StyleSwinGenerator(**options)``; ready for JSON.

    Raises
    ------
    InputError
        If `scale` is missing, the file lacks tensors that tell the options, or the centroids do not fit.
    """
    kind, weights = _known(state)
    start = "generator." if kind == "transmrsr" else ""
    layers = _count(weights, f"{start}layers.")
    block = f"{start}layers.{{}}.blocks.0."
    found: dict[str, Any] = {
        "size": 2 ** (layers + 1),
        "channels": [_shape(weights, block.format(i) + "qkv.weight")[1] for i in range(layers)],
        "style_dim": _shape(weights, block.format(0) + "norm1.style.weight")[1],
        "window": (math.isqrt(_shape(weights, block.format(layers - 1) + "attn.0.relative_position_bias_table")[0]) + 1) // 2,
        "mlp_ratio": _ratio(weights, block.format(0) + "mlp.fc1.weight"),
    }
    heads = [2 * _shape(weights, block.format(i) + "attn.0.relative_position_bias_table")[1] for i in range(layers)]
    if kind == "styleswin":
        return {**given, **found, "heads": heads, "mapping_layers": _count(weights, "style.")}
    if "scale" not in given:
        raise InputError("TransMRSR weights do not tell for which factor they were trained: give scale, for example scale=4.")
    levels = _count(weights, "layers.")
    table = "layers.{}.residual_group.blocks.0.attn.relative_position_bias_table"
    found |= {"decoder_heads": heads, "encoder_heads": [_shape(weights, table.format(i))[1] for i in range(levels)]}
    found["noise_channel"] = _shape(weights, "conv2d.conv_L1.weight")[1] == 4
    found["modulation"] = "condition_scale.0.0.weight" in weights
    if found["modulation"]:
        outputs, inputs = (_shape(weights, f"condition_scale.0.{layer}.weight")[0] for layer in (2, 0))
        found["half_modulation"] = outputs < inputs
    given = dict(given)
    if (centroids := given.pop("centroids", None)) is not None:
        found["clusters"] = len(_centroids(centroids, found["style_dim"]))
    return {**given, **found}


def convert(state: Mapping[str, Any], **given: Any) -> dict[str, Tensor]:
    """Official names to ours. What the public network never uses and what can be worked out is left out.

    Parameters
    ----------
    state : mapping
        As for :func:`recognise`.
    **given
        As for :func:`options`; `centroids` are added to the weights of TransMRSR.

    Returns
    -------
    dict
        For a strict ``load_state_dict``. Tensors are not copied.

    Raises
    ------
    InputError
        If the file is of another network, holds an unknown name, or the centroids do not fit.
    """
    kind, weights = _known(state)
    levels = _count(weights, "layers.")
    converted = {}
    for name, tensor in weights.items():
        if name.startswith(_UNUSED) or _BUFFERS.fullmatch(name.rsplit(".", 1)[-1]):
            continue
        ours = _transmrsr_name(name, 2 ** (levels + 2)) if kind == "transmrsr" else _generator_name(name)
        if ours is None:
            raise InputError(f"{name} is no part of the public {'TransMRSR' if kind == 'transmrsr' else 'StyleSwin generator'}.")
        converted[ours] = tensor
    if kind == "transmrsr" and given.get("centroids") is not None:
        converted["centroids"] = _centroids(given["centroids"], _shape(weights, "generator.layers.0.blocks.0.norm1.style.weight")[1])
    return converted


def load_prior(network: TransMRSR, state: Mapping[str, Any]) -> tuple[str, ...]:
    """Load a generator of stage 1 into the decoder of a TransMRSR; its mapping network and RGB heads are left out.

    Parameters
    ----------
    network : TransMRSR
    state : mapping
        A public checkpoint (its ``g_ema`` entry), or the state dict of our
        :class:`~napari_mrsr.networks.styleswin.StyleSwinGenerator`.

    Returns
    -------
    tuple of str
        Weights of the decoder that the file lacks and that stay as they were; empty where all were there.

    Raises
    ------
    InputError
        If the file is no such generator, its size or widths differ, or the network is to have no prior.
    """
    weights = convert(state) if recognise(state) == "styleswin" else _weights(state)
    return network.load_prior({name.removeprefix("decoder."): tensor for name, tensor in weights.items() if name.startswith("decoder.")})


def _weights(state: Mapping[str, Any]) -> dict[str, Any]:
    """Names without what trainers put around and before them."""
    for entry in _ENTRIES:
        if isinstance(inner := state.get(entry), Mapping):
            return _weights(inner)
    for prefix in _PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            return _weights({name.removeprefix(prefix): value for name, value in state.items()})
    return dict(state)


def _known(state: Mapping[str, Any]) -> tuple[Kind, dict[str, Any]]:
    kind = recognise(state)
    if kind is False:
        raise InputError("These weights are neither a TransMRSR nor a StyleSwin generator of its public code.")
    return kind, _weights(state)


def _transmrsr_name(name: str, size: int) -> str | None:
    stem, _, last = name.rpartition(".")
    if stem in _WHOLE:
        return f"{_WHOLE[stem]}.{last}"
    if name.startswith("generator."):
        return _decoder_name(name.removeprefix("generator."))
    if match := re.fullmatch(r"(conv2d|conv_deep)\.conv_L1\.(.+)", name):
        return f"{_STAGES[match[1]]}.conv.{match[2]}"
    if match := re.fullmatch(r"(conv2d|conv_deep)\.blk_L1\.(\d)\.conv([12])\.(.+)", name):
        return f"{_STAGES[match[1]]}.blocks.{match[2]}.{2 * int(match[3]) - 2}.{match[4]}"
    if match := re.fullmatch(r"layers\.(\d)\.residual_group\.blocks\.(\d)\.(.+)", name):
        return f"encoder.{match[1]}.stage.blocks.{match[2]}.{_block_name(match[3])}"
    if match := re.fullmatch(r"layers\.(\d)\.conv\.(.+)", name):
        return f"encoder.{match[1]}.stage.conv.{match[2]}"
    if match := re.fullmatch(r"layers\.(\d)\.downsample\.(norm|reduction)\.(.+)", name):
        return f"encoder.{match[1]}.merge.{_step_name(match[2])}.{match[3]}"
    if match := re.fullmatch(r"condition_(scale|shift)\.(\d)\.([02])\.(.+)", name):
        return f"modulation.{size // 2 ** (int(match[2]) + 1)}.{match[1]}.{match[3]}.{match[4]}"
    return None


def _generator_name(name: str) -> str | None:
    if match := re.fullmatch(r"style\.(\d+)\.(.+)", name):
        return f"mapping.{match[1]}.{match[2]}"
    if match := re.fullmatch(r"to_rgbs\.(\d)\.(.+)", name):
        return f"heads.{match[1]}.{match[2]}"
    return _decoder_name(name)


def _decoder_name(name: str) -> str | None:
    if name == "input.input":
        return "decoder.start"
    if match := re.fullmatch(r"layers\.(\d)\.blocks\.(\d)\.(.+)", name):
        return f"decoder.layers.{match[1]}.blocks.{match[2]}.{_block_name(match[3])}"
    if match := re.fullmatch(r"layers\.(\d)\.upsample\.(alpha|norm\..+|reduction\..+)", name):
        first, dot, last = match[2].partition(".")
        return f"decoder.layers.{match[1]}.upsample.{_step_name(first)}{dot}{last}"
    return None


def _block_name(name: str) -> str:
    stem, _, last = name.rpartition(".")
    return _BLOCK.get(name) or f"{_BLOCK.get(stem, stem)}.{last}"


def _step_name(name: str) -> str:
    return "reduce" if name == "reduction" else name


def _shape(weights: Mapping[str, Any], name: str) -> tuple[int, ...]:
    if name not in weights:
        raise InputError(f"This weights file has no {name}: it is incomplete.")
    return tuple(weights[name].shape)


def _ratio(weights: Mapping[str, Any], name: str) -> float:
    wide, narrow = _shape(weights, name)
    return wide / narrow


def _count(weights: Mapping[str, Any], prefix: str) -> int:
    return len({name[len(prefix) :].split(".")[0] for name in weights if name.startswith(prefix)})


def _centroids(source: Centroids, style_dim: int) -> Tensor:
    """(clusters, style_dim) float32 tensor from a table or an ``.npy`` file."""
    if isinstance(source, (str, os.PathLike)):
        path = require_readable(source)
        try:
            source = torch.from_numpy(np.asarray(np.load(path, allow_pickle=False)))
        except (ValueError, TypeError, EOFError) as error:
            raise InputError(f"{path.name} holds no table of centroids in NumPy's format ({error}).") from None
    table = torch.as_tensor(source).detach().to("cpu", torch.float32)
    if table.ndim != 2 or not len(table) or table.shape[1] != style_dim:
        raise InputError(f"Centroids must be a (clusters, {style_dim}) table, not of shape {tuple(table.shape)}.")
    return table
