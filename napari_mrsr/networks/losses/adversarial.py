"""Adversarial losses on logits (D before its sigmoid), and the R1 gradient penalty.

With D = sigmoid(logit), ``-log D = softplus(-logit)`` and ``-log(1 - D) = softplus(logit)``: the same numbers, without the logarithm of a
rounded zero. Everything is computed in float32 at least.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_mrsr.errors import InputError
from napari_mrsr.networks.losses.precision import wide


def _checked(fake_logits: Sequence[Tensor], weights: Sequence[float] | None) -> Sequence[float]:
    found = [1.0] * len(fake_logits) if weights is None else weights
    if not fake_logits or len(found) != len(fake_logits):
        raise InputError(
            f"Discriminator loss: {len(fake_logits)} kinds of generated images and {len(found)} weights do not fit; give one weight each."
        )
    return found


class NonSaturatingLoss(nn.Module):
    """Non-saturating logistic loss: the generator minimises ``E[-log D(fake)]`` (FD-ViT, eq. 4, 5, 21)."""

    def generator(self, fake_logits: Tensor) -> Tensor:
        """``mean softplus(-logit)``.

        Parameters
        ----------
        fake_logits : (B, 1) tensor
            Of generated images, with gradient.

        Returns
        -------
        scalar tensor
        """
        return F.softplus(-wide(fake_logits)).mean()

    def discriminator(self, real_logits: Tensor, *fake_logits: Tensor, weights: Sequence[float] | None = None) -> Tensor:
        """``mean softplus(-real) + sum_i w_i mean softplus(fake_i)``.

        Parameters
        ----------
        real_logits : (B, 1) tensor
        *fake_logits : (B, 1) tensors
            One for each kind of generated image (detached from the generator).
        weights : sequence of float, optional
            Weight of each kind; ones where None.

        Returns
        -------
        scalar tensor

        Raises
        ------
        InputError
            If there are no generated images, or not one weight for each kind.
        """
        loss = F.softplus(-wide(real_logits)).mean()
        for logits, weight in zip(fake_logits, _checked(fake_logits, weights), strict=True):
            loss = loss + weight * F.softplus(wide(logits)).mean()
        return loss

    def forward(self, fake_logits: Tensor) -> Tensor:
        """The generator's part."""
        return self.generator(fake_logits)


class BinaryCrossEntropyLoss(nn.Module):
    """Binary cross entropy of D against chosen labels; with labels 1 and 0 it equals :class:`NonSaturatingLoss`.

    Parameters
    ----------
    real_label, fake_label : float
        Targets of the discriminator, 0 to 1; 0.9 for real images is the usual one-sided smoothing.
    saturating : bool
        The generator minimises ``E[log(1 - D(fake))]``, the original minimax form, instead of ``E[-log D(fake)]``.

    Raises
    ------
    InputError
        If a label is outside 0 to 1.
    """

    def __init__(self, real_label: float = 1.0, fake_label: float = 0.0, saturating: bool = False) -> None:
        super().__init__()
        for label in (real_label, fake_label):
            if not 0 <= label <= 1:
                raise InputError(f"Adversarial loss: a label is a probability from 0 to 1, not {label}.")
        self.real_label, self.fake_label, self.saturating = real_label, fake_label, saturating

    def generator(self, fake_logits: Tensor) -> Tensor:
        """Scalar loss of generated images' logits (B, 1)."""
        if self.saturating:
            return -_cross_entropy(fake_logits, 0.0)
        return _cross_entropy(fake_logits, 1.0)

    def discriminator(self, real_logits: Tensor, *fake_logits: Tensor, weights: Sequence[float] | None = None) -> Tensor:
        """Scalar loss; arguments and errors of :meth:`NonSaturatingLoss.discriminator`."""
        loss = _cross_entropy(real_logits, self.real_label)
        for logits, weight in zip(fake_logits, _checked(fake_logits, weights), strict=True):
            loss = loss + weight * _cross_entropy(logits, self.fake_label)
        return loss

    def forward(self, fake_logits: Tensor) -> Tensor:
        """The generator's part."""
        return self.generator(fake_logits)


def _cross_entropy(logits: Tensor, label: float) -> Tensor:
    logits = wide(logits)
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))


def r1_penalty(real_logits: Tensor, real_images: Tensor, gamma: float = 10.0) -> Tensor:
    """R1 regularisation, ``gamma / 2 * E[|grad_x D(x)|^2]`` on real images; D is the logit.

    Applied lazily, every n-th step only, it is multiplied by n by whoever calls it (StyleSwin and the swapping autoencoder: 16).

    Parameters
    ----------
    real_logits : (B, 1) tensor
        Of `real_images`, whose ``requires_grad`` was set before.
    real_images : (B, C, H, W) tensor
    gamma : float
        10 in StyleSwin and the swapping autoencoder.

    Returns
    -------
    scalar tensor
        Differentiable with respect to the discriminator.

    Raises
    ------
    InputError
        If the logits do not depend on `real_images` with gradient.
    """
    if not real_images.requires_grad or not real_logits.requires_grad:
        raise InputError("R1 penalty: call requires_grad_() on the real images before the discriminator sees them.")
    (gradient,) = torch.autograd.grad(real_logits.sum(), real_images, create_graph=True)
    return 0.5 * gamma * wide(gradient).square().flatten(1).sum(1).mean()
