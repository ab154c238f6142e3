"""Cohf-T's loss: mean square error and structural similarity of the image and of its gradient magnitude (paper's eq. 1 and 2)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_mrsr.errors import InputError
from napari_mrsr.networks.blocks.gradient import gradient_magnitude


class MseSsimLoss(nn.Module):
    """``alpha MSE(x, y) - (1 - alpha) SSIM(x, y)`` (eq. 1).

    SSIM is the mean over the positions where the Gaussian window lies inside the image, of population moments: scikit-image's
    ``structural_similarity(..., gaussian_weights=True, sigma=1.5, use_sample_covariance=False)``.

    Parameters
    ----------
    alpha : float
        0.95.
    window : int
        Pixels across the SSIM's window, odd.
    sigma : float
        Of the window, in pixels.
    data_range : float
        Range that the SSIM's constants ``(0.01 R)^2`` and ``(0.03 R)^2`` refer to.
    ssim : bool
        False leaves ``alpha MSE`` (ablation "w/o SSIM Loss").

    Raises
    ------
    InputError
        If `window` is not a positive odd number.
    """

    def __init__(self, alpha: float = 0.95, window: int = 11, sigma: float = 1.5, data_range: float = 1.0, ssim: bool = True) -> None:
        super().__init__()
        if window < 1 or window % 2 == 0:
            raise InputError(f"The SSIM's window must be an odd number of pixels, not {window}.")
        self.alpha, self.data_range, self.ssim = alpha, data_range, ssim
        position = torch.arange(window, dtype=torch.float64) - window // 2
        weights = torch.exp(-0.5 * (position / sigma) ** 2)
        self.weights: Tensor
        self.register_buffer("weights", weights / weights.sum(), persistent=False)

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Loss of a batch.

        Parameters
        ----------
        output, target : (B, 1, H, W) tensors
            In units in which the range is `data_range`.

        Returns
        -------
        scalar tensor
            ``alpha - 1`` at best.

        Raises
        ------
        InputError
            If the images are smaller than the SSIM's window.
        """
        wide = torch.promote_types(output.dtype, torch.float32)
        with torch.autocast(output.device.type, enabled=False):
            output, target = output.to(wide), target.to(wide)
            loss = self.alpha * F.mse_loss(output, target)
            return loss - (1 - self.alpha) * self._similarity(output, target).mean() if self.ssim else loss

    def _similarity(self, x: Tensor, y: Tensor) -> Tensor:
        """SSIM map of the valid region."""
        window = len(self.weights)
        if min(x.shape[2:]) < window:
            raise InputError(f"The SSIM loss needs images of at least {window} x {window} pixels, not {x.shape[2]} x {x.shape[3]}.")
        weights = self.weights.to(x)
        moments = torch.cat([x, y, x * x, y * y, x * y])
        moments = F.conv2d(F.conv2d(moments, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
        mean_x, mean_y, xx, yy, xy = moments.chunk(5)
        c1, c2 = (0.01 * self.data_range) ** 2, (0.03 * self.data_range) ** 2
        product, squares = mean_x * mean_y, mean_x**2 + mean_y**2
        return (2 * product + c1) * (2 * (xy - product) + c2) / ((squares + c1) * (xx + yy - squares + c2))


class CohfTLoss(nn.Module):
    """``L = L_in + lambda L_c``: :class:`MseSsimLoss` of the image plus `weight` times that of the gradient magnitude (eq. 1, 2).

    Parameters
    ----------
    alpha, window, sigma, data_range
        See :class:`MseSsimLoss`.
    weight : float
        lambda, 0.5.
    gradient : bool
        False leaves L_c out (ablation "w/o Lc").
    ssim : bool
        False leaves both SSIM terms out (ablation "w/o SSIM Loss").
    pixel : Module or None
        Another loss of output and target in the place of :class:`MseSsimLoss`, whose options then do not count.
    """

    def __init__(
        self,
        alpha: float = 0.95,
        weight: float = 0.5,
        window: int = 11,
        sigma: float = 1.5,
        data_range: float = 1.0,
        gradient: bool = True,
        ssim: bool = True,
        pixel: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.weight, self.gradient = weight, gradient
        self.loss = pixel or MseSsimLoss(alpha, window, sigma, data_range, ssim)

    def forward(self, image: Tensor, gradient: Tensor, target: Tensor, target_gradient: Tensor | None = None) -> Tensor:
        """Sum of :meth:`terms`."""
        return torch.stack(list(self.terms(image, gradient, target, target_gradient).values())).sum()

    def terms(self, image: Tensor, gradient: Tensor, target: Tensor, target_gradient: Tensor | None = None) -> dict[str, Tensor]:
        """Weighted terms of the loss.

        Parameters
        ----------
        image, gradient : (B, 1, H, W) tensors
            What :meth:`~napari_mrsr.networks.cohft.CohfT.forward_with_gradient` returns.
        target : (B, 1, H, W) tensor
            Sharp image, range `data_range`.
        target_gradient : (B, 1, H, W) tensor or None
            None: :func:`~napari_mrsr.networks.blocks.gradient.gradient_magnitude` of `target`.

        Returns
        -------
        dict of str to scalar tensor
            ``image`` and, unless left out, ``gradient``.
        """
        terms = {"image": self.loss(image, target)}
        if self.gradient:
            truth = gradient_magnitude(target) if target_gradient is None else target_gradient
            terms["gradient"] = self.weight * self.loss(gradient, truth)
        return terms


LOSS_ABLATIONS: Mapping[str, dict[str, Any]] = MappingProxyType({"w/o Lc": {"gradient": False}, "w/o SSIM Loss": {"ssim": False}})
"""Options of :class:`CohfTLoss` for the paper's table 4."""
