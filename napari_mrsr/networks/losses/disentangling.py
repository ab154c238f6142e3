"""Losses of FD-ViT: of its disentangling autoencoder (eq. 3 to 6) and of its super-resolution network (eq. 7 to 9)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from napari_mrsr.errors import InputError
from napari_mrsr.networks.disentangling import resized
from napari_mrsr.networks.losses.adversarial import NonSaturatingLoss, r1_penalty
from napari_mrsr.networks.losses.precision import wide

EPS = 1e-8


def cosine_distance(a: Tensor, b: Tensor, eps: float = EPS) -> Tensor:
    """``1 - <a, b> / max(|a| |b|, eps)`` of flattened codes, mean over the batch (eq. 7, 8).

    Parameters
    ----------
    a, b : (B, ...) tensors
        Of the same shape.
    eps : float
        Smallest product of lengths.

    Returns
    -------
    scalar tensor, 0 to 2
    """
    a, b = wide(a).flatten(1), wide(b).flatten(1)
    lengths: Tensor = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    distance: Tensor = 1 - (a * b).sum(1) / lengths.clamp_min(eps)
    return distance.mean()


class AutoencoderLoss(nn.Module):
    """What encoder and decoder minimise: ``L_rec + 0.7 L_adv + 0.7 L_swap`` (eq. 6).

    Parameters
    ----------
    lambda_adv, lambda_swap : float
        Weights of "the reconstruction looks real" and "the image with swapped texture looks real".
    """

    def __init__(self, lambda_adv: float = 0.7, lambda_swap: float = 0.7) -> None:
        super().__init__()
        self.lambda_adv, self.lambda_swap = lambda_adv, lambda_swap
        self.adversarial = NonSaturatingLoss()

    def terms(self, image: Tensor, reconstruction: Tensor, reconstruction_logits: Tensor, swap_logits: Tensor) -> dict[str, Tensor]:
        """Terms before weighting: ``reconstruction``, ``adversarial``, ``swap``; arguments as in :meth:`forward`."""
        target = resized(image, reconstruction.shape[2:])
        return {
            "reconstruction": (wide(target) - wide(reconstruction)).abs().mean(),
            "adversarial": self.adversarial.generator(reconstruction_logits),
            "swap": self.adversarial.generator(swap_logits),
        }

    def forward(self, image: Tensor, reconstruction: Tensor, reconstruction_logits: Tensor, swap_logits: Tensor) -> Tensor:
        """Scalar loss.

        Parameters
        ----------
        image : (B, 1, H, W) tensor
            x1; resampled to the size of the reconstruction where it differs.
        reconstruction : (B, 1, S, S) tensor
            G(E(x1)).
        reconstruction_logits, swap_logits : (B, 1) tensors
            Logits of the discriminator for the reconstruction and for the structure of x1 with the texture of another image x2.
        """
        terms = self.terms(image, reconstruction, reconstruction_logits, swap_logits)
        return terms["reconstruction"] + self.lambda_adv * terms["adversarial"] + self.lambda_swap * terms["swap"]


class AutoencoderDiscriminatorLoss(nn.Module):
    """What the autoencoder's discriminator minimises; not given in the paper, the swapping autoencoder's weights are used.

    Parameters
    ----------
    reconstruction_weight, swap_weight : float
        Of the two kinds of generated images against 1 for real ones.
    r1 : float
        gamma of the R1 penalty; 0 for none (10 in the swapping autoencoder).
    r1_every : int
        The penalty is multiplied by this, because the caller gives `real_images` only every so many steps (16).
    """

    def __init__(self, reconstruction_weight: float = 0.5, swap_weight: float = 0.5, r1: float = 0.0, r1_every: int = 16) -> None:
        super().__init__()
        self.weights = (reconstruction_weight, swap_weight)
        self.r1, self.r1_every = r1, r1_every
        self.adversarial = NonSaturatingLoss()

    def forward(self, real_logits: Tensor, reconstruction_logits: Tensor, swap_logits: Tensor, real_images: Tensor | None = None) -> Tensor:
        """Scalar loss.

        Parameters
        ----------
        real_logits, reconstruction_logits, swap_logits : (B, 1) tensors
        real_images : (B, 1, H, W) tensor, optional
            What `real_logits` were computed from, with ``requires_grad``: adds the R1 penalty in this step.
        """
        loss = self.adversarial.discriminator(real_logits, reconstruction_logits, swap_logits, weights=self.weights)
        if real_images is not None and self.r1:
            loss = loss + self.r1_every * r1_penalty(real_logits, real_images, self.r1)
        return loss


class FDViTLoss(nn.Module):
    """What the super-resolution network minimises: ``L_adv + l1 L_ViT + l2 L_str + l3 L_tex`` (eq. 9).

    Structure, texture and ViT features of the result should point where those of the low resolution do. The paper compares with no sharp
    image anywhere; `lambda_pix` is an addition to it. Encoder and ViT bring every image to their own size (256 x 256), are frozen here, and
    pass gradients on to the result.

    Parameters
    ----------
    encoder : DisentanglingEncoder or None
        Trained E; needed for structure and texture.
    vit : ViTFeatures or None
        Fine-tuned ViT; needed for its term.
    use_vit, use_structure, use_texture : bool
        Switch terms off (ablations of tables 1 and 2).
    lambda_adv, lambda_vit, lambda_structure, lambda_texture : float
        1, and lambda 1 to 3 of the paper.
    lambda_pix : float
        Weight of the mean absolute difference to the sharp image; not in the paper.

    Raises
    ------
    InputError
        If a term is on without its feature extractor.
    """

    def __init__(
        self,
        encoder: nn.Module | None,
        vit: nn.Module | None,
        use_vit: bool = True,
        use_structure: bool = True,
        use_texture: bool = True,
        lambda_adv: float = 1.0,
        lambda_vit: float = 1.0,
        lambda_structure: float = 1.0,
        lambda_texture: float = 0.9,
        lambda_pix: float = 0.0,
    ) -> None:
        super().__init__()
        if encoder is None and (use_structure or use_texture):
            raise InputError("FD-ViT loss: structure and texture need a trained disentangling encoder; give one or switch both off.")
        if vit is None and use_vit:
            raise InputError("FD-ViT loss: the ViT term needs a ViT; give one or switch the term off.")
        self.weights = {"adversarial": lambda_adv}
        if use_vit:
            self.weights["vit"] = lambda_vit
        if use_structure:
            self.weights["structure"] = lambda_structure
        if use_texture:
            self.weights["texture"] = lambda_texture
        if lambda_pix:
            self.weights["pixel"] = lambda_pix
        self.encoder = encoder.requires_grad_(False).eval() if encoder is not None and (use_structure or use_texture) else None
        self.vit = vit.requires_grad_(False).eval() if vit is not None and use_vit else None
        self.adversarial = NonSaturatingLoss()

    def train(self, mode: bool = True) -> FDViTLoss:
        """Feature extractors stay in evaluation mode."""
        super().train(mode)
        for extractor in (self.encoder, self.vit):
            if extractor is not None:
                extractor.eval()
        return self

    def terms(self, sr: Tensor, lr: Tensor, fake_logits: Tensor, target: Tensor | None = None) -> dict[str, Tensor]:
        """Terms that are on, before weighting, named as in `weights`; arguments as in :meth:`forward`."""
        found = {"adversarial": self.adversarial.generator(fake_logits)}
        if self.vit is not None:
            with torch.no_grad():
                wanted = self.vit(lr)
            found["vit"] = cosine_distance(wanted, self.vit(sr))
        if self.encoder is not None:
            with torch.no_grad():
                codes = self.encoder(lr)
            for name, low, high in zip(("structure", "texture"), codes, self.encoder(sr), strict=True):
                if name in self.weights:
                    found[name] = cosine_distance(low, high)
        if "pixel" in self.weights:
            if target is None:
                raise InputError("FD-ViT loss: lambda_pix compares with the sharp image; give it as target or set lambda_pix to 0.")
            found["pixel"] = (wide(sr) - wide(target)).abs().mean()
        return found

    def forward(self, sr: Tensor, lr: Tensor, fake_logits: Tensor, target: Tensor | None = None) -> Tensor:
        """Scalar loss.

        Parameters
        ----------
        sr : (B, 1, rh, rw) tensor
            The network's result.
        lr : (B, 1, h, w) tensor
            Its input, showing the same region.
        fake_logits : (B, 1) tensor
            Logits of the discriminator for `sr`.
        target : (B, 1, rh, rw) tensor, optional
            Sharp image; only for `lambda_pix`.

        Raises
        ------
        InputError
            If `lambda_pix` is set and `target` is missing.
        """
        terms = self.terms(sr, lr, fake_logits, target)
        return torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()
