"""TransMRSR's second-stage loss: L1, and likeness in the features of VGG19 (content) and in their correlations (style)."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_mrsr.errors import InputError
from napari_mrsr.networks.blocks.moments import at_least_float32
from napari_mrsr.networks.losses.vgg import VGGFeatures

CONTENT_LAYERS = MappingProxyType({"paper": (2, 4, 7, 10), "code": (2, 4, 7)})
"""conv1_2, pool1, conv2_2 and conv3_1 (each convolution before its ReLU) in the paper; the official code leaves out the last."""

STYLE_LAYERS = (1, 3, 5, 9, 13)
"""relu1_1, relu1_2, conv2_1 before its ReLU, pool2, relu3_2."""


class TransMRSRLoss(nn.Module):
    """``L1 + 0.5 content + 0.5 style`` (paper's section on the loss; the weights are those of the official code).

    Content is the mean squared difference of VGG19 features, style that of their Gram matrices, both summed over their layers.

    Parameters
    ----------
    content_layers : {"paper", "code"} or sequence of int
        torchvision's layer numbers; empty leaves the term out.
    style_layers : sequence of int
        Likewise.
    weights : (float, float, float)
        Of L1, content and style, at least 0.
    vgg : path, optional
        torchvision's ``vgg19-dcbb9e9d.pth``. None takes it from the user's cache folder, downloading it once.
    use_vgg : bool
        False leaves content and style out: plain L1.

    Raises
    ------
    InputError
        If an option does not fit, or the weights of VGG19 are missing or others.
    """

    def __init__(
        self,
        content_layers: Literal["paper", "code"] | Sequence[int] = "paper",
        style_layers: Sequence[int] = STYLE_LAYERS,
        weights: Sequence[float] = (1.0, 0.5, 0.5),
        vgg: str | os.PathLike[str] | None = None,
        use_vgg: bool = True,
    ) -> None:
        super().__init__()
        if isinstance(content_layers, str) and content_layers not in CONTENT_LAYERS:
            raise InputError(f"TransMRSR loss: content layers are {', '.join(map(repr, CONTENT_LAYERS))} or numbers, not {content_layers!r}.")
        self.content_layers = CONTENT_LAYERS[content_layers] if isinstance(content_layers, str) else tuple(content_layers)
        self.style_layers = tuple(style_layers)
        self.weights = tuple(float(w) for w in weights)
        if len(self.weights) != 3 or not all(0 <= w < math.inf for w in self.weights):
            raise InputError(f"TransMRSR loss: three weights of at least 0 are needed (L1, content, style), not {tuple(weights)}.")
        if use_vgg and not (self.content_layers or self.style_layers):
            raise InputError("TransMRSR loss: no layer of VGG19 is named; name some, or switch the VGG terms off (use_vgg=False).")
        self.vgg = VGGFeatures((*self.content_layers, *self.style_layers), vgg) if use_vgg else None

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Scalar loss, the sum of :meth:`terms`."""
        return torch.stack(list(self.terms(output, target).values())).sum()

    def terms(self, output: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Parts of the loss by name, weighted as they enter the sum.

        Parameters
        ----------
        output, target : (B, 3, H, W) tensor
            Normalised as ImageNet is, the units of TransMRSR; one-channel slices in 0..1 become such through
            :func:`~napari_mrsr.networks.losses.vgg.as_vgg_input`. Without VGG any shape goes.

        Returns
        -------
        dict
            ``l1``, and with VGG ``content`` and ``style``.

        Raises
        ------
        InputError
            If the shapes differ, or do not fit VGG19.
        """
        if output.shape != target.shape:
            raise InputError(f"TransMRSR loss: the output's shape {tuple(output.shape)} differs from the target's {tuple(target.shape)}.")
        l1, content, style = self.weights
        found = {"l1": l1 * F.l1_loss(output, target)}
        if self.vgg is None:
            return found
        self._require_fit(output)
        ours = self.vgg(output)
        with torch.no_grad():
            theirs = self.vgg(target)
        zero = output.new_zeros(())
        found["content"] = content * sum((_difference(ours[n], theirs[n]) for n in self.content_layers), zero)
        found["style"] = style * sum((_difference(gram_matrix(ours[n]), gram_matrix(theirs[n])) for n in self.style_layers), zero)
        return found

    def _require_fit(self, image: Tensor) -> None:
        if image.ndim != 4 or image.shape[1] != 3:
            raise InputError(
                f"TransMRSR loss: VGG19 needs normalised slices of shape (B, 3, H, W), not {tuple(image.shape)}; "
                f"pass one-channel slices in 0..1 through as_vgg_input."
            )
        poolings = sum(isinstance(layer, nn.MaxPool2d) for layer in self.vgg.features)  # type: ignore[union-attr]
        if min(image.shape[2:]) < 2**poolings:
            height, width = image.shape[2:]
            raise InputError(f"TransMRSR loss: slices of {height} x {width} are too small for the named layers; {2**poolings} or more are needed.")


def gram_matrix(features: Tensor) -> Tensor:
    """Correlations of channels: ``F F^T / (C H W)``, in at least float32.

    Parameters
    ----------
    features : (B, C, H, W) tensor

    Returns
    -------
    (B, C, C) tensor
    """
    # Sums over all pixels leave the range of half precision.
    with torch.autocast(features.device.type, enabled=False):
        rows = at_least_float32(features).flatten(2)
        return rows @ rows.mT / (rows.shape[1] * rows.shape[2])


def _difference(ours: Tensor, theirs: Tensor) -> Tensor:
    kind = torch.promote_types(ours.dtype, torch.float32)
    return F.mse_loss(ours.to(kind), theirs.to(kind))
