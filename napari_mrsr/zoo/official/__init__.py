"""Reading the weights files of the public implementations of DCAMSR and TransMRSR (with the StyleSwin generator of its first stage)."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_mrsr.errors import InputError
from napari_mrsr.networks import create, get_architecture
from napari_mrsr.zoo.official.files import find_tensors, read_content
from napari_mrsr.zoo.weights import require_fit

if TYPE_CHECKING:
    from torch import Tensor, nn

NETWORKS = ("dcamsr", "transmrsr")
"""Networks with public code; each has a module here with ``recognise``, ``options`` and ``convert``."""

GENERATOR = "styleswin"
"""TransMRSR's first stage, which is no network that could be run."""


@dataclass(frozen=True, eq=False)
class Official:
    """An official checkpoint as our network.

    Attributes
    ----------
    architecture : str
        Key of the network registry, or ``styleswin``.
    scale : int or None
        Factor it was trained for; None where that was not said.
    options : dict
        The other constructor options.
    network : Module
        Filled, in eval mode.
    """

    architecture: str
    scale: int | None
    options: dict[str, Any]
    network: nn.Module


def load_official(source: str | os.PathLike[str] | Mapping[str, Any], **options: Any) -> nn.Module:
    """Network with the weights of an official checkpoint.

    Which network it is, its width and its depth follow from the names and shapes of the tensors.

    Parameters
    ----------
    source : path or mapping
        ``.pth``, ``.pt``, ``.ckpt`` (Lightning's among them) or ``.safetensors``, or a state dict; wrappers such as ``state_dict`` or
        ``g_ema`` and prefixes such as ``module.`` are looked through. Only tensors are loaded.
    **options
        What weights do not tell: `scale` of DCAMSR; of TransMRSR `truncation` (``"nearest"``, ``"farthest"``, None) and `centroids` (a
        table or an ``.npy`` file), and `scale`, which is only a record there. Any other option of the network is passed on.

    Returns
    -------
    Module
        DCAMSR, TransMRSR or, for a checkpoint of TransMRSR's first stage, StyleSwinGenerator; float32, in eval mode.

    Raises
    ------
    InputError
        If the source is of another network, width or scale, holds more than tensors or values that are not finite, or an option does not fit.
    """
    if isinstance(source, Mapping):
        return read_official(source, "The state dict", options).network
    return read_official(read_content(source), Path(source).name, options).network


def read_official(content: Any, label: str, options: Mapping[str, Any]) -> Official:
    """As :func:`load_official`, with the network's name and options.

    Parameters
    ----------
    content : mapping
        A state dict, or what a file holds around one.
    label : str
        What errors call it.
    options : mapping
    """
    state = find_tensors(content, label)
    _require_finite(label, state)
    for name in NETWORKS:
        module = importlib.import_module(f"{__name__}.{name}")
        if kind := module.recognise(state):
            try:
                return _fill(label, GENERATOR if kind == GENERATOR else name, module, state, dict(options))
            except InputError as error:
                raise InputError(str(error) if str(error).startswith(label) else f"{label}: {error}") from None
    titles = " or ".join(get_architecture(name).title for name in NETWORKS)
    raise InputError(
        f"{label} holds no weights of the public {titles}: its {len(state)} tensors (first: {next(iter(state))}) are of another network."
    )


def _fill(label: str, name: str, module: Any, state: dict[str, Tensor], given: dict[str, Any]) -> Official:
    scale = given.pop("scale", None)
    if name != GENERATOR:
        # An interpolated input needs no factor; the network takes any.
        default = {"scale": get_architecture(name).scales[0]} if get_architecture(name).pre_interpolated else {}
        given |= default if scale is None else {"scale": scale}
    options = module.options(state, **given)
    network = _generator(options) if name == GENERATOR else create(name, **options)
    weights = module.convert(state, **{k: given[k] for k in ("centroids",) if k in given})
    own = network.state_dict()
    known = _official_names(own, weights, state)
    require_fit(label, *({known.get(k, k): tuple(v.shape) for k, v in part.items()} for part in (own, weights)))
    if wrong := [k for k, v in weights.items() if not v.is_floating_point()]:
        raise InputError(f"{label}: {wrong[0]} holds {str(weights[wrong[0]].dtype).removeprefix('torch.')} values; weights must be real numbers.")
    _require_finite(label, weights)
    network.load_state_dict(weights)
    return Official(name, scale, {k: v for k, v in options.items() if k != "scale"}, network.eval())


def _official_names(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, str]:
    """What the file calls our weights, for errors; of weights that it lacks only those that stand beside one it has."""
    origin = {id(v): k for k, v in state.items()}
    names = {k: origin[id(v)] for k, v in weights.items() if id(v) in origin}
    layers = {k.rpartition(".")[0]: official.rpartition(".")[0] for k, official in names.items()}
    for k in own.keys() - names.keys():
        layer, _, part = k.rpartition(".")
        if part in ("weight", "bias") and layer in layers:
            names[k] = f"{layers[layer]}.{part}"
    return names if len(set(names.values())) == len(names) else {}


def _generator(options: dict[str, Any]) -> nn.Module:
    from napari_mrsr.networks.styleswin import StyleSwinGenerator

    try:
        return StyleSwinGenerator(**options)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise InputError(f"StyleSwin: {error}.") from None


def _require_finite(label: str, state: Mapping[str, Tensor]) -> None:
    import torch

    for name, value in state.items():
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise InputError(f"{label}: {name} does not hold plain numbers.")
        if not torch.isfinite(value).all():
            raise InputError(f"{label}: the weights {name} contain NaN or infinite values; the file cannot be used.")
