"""Losses of the five papers, as modules; one file per kind."""

from napari_mrsr.networks.losses.adversarial import BinaryCrossEntropyLoss, NonSaturatingLoss, r1_penalty
from napari_mrsr.networks.losses.disentangling import AutoencoderDiscriminatorLoss, AutoencoderLoss, FDViTLoss, cosine_distance
from napari_mrsr.networks.losses.gradient import LOSS_ABLATIONS, CohfTLoss, MseSsimLoss
from napari_mrsr.networks.losses.perceptual import TransMRSRLoss
from napari_mrsr.networks.losses.pixel import PIXEL_LOSSES, CharbonnierLoss, ParameterNorm

__all__ = [
    "LOSS_ABLATIONS",
    "PIXEL_LOSSES",
    "AutoencoderDiscriminatorLoss",
    "AutoencoderLoss",
    "BinaryCrossEntropyLoss",
    "CharbonnierLoss",
    "CohfTLoss",
    "FDViTLoss",
    "MseSsimLoss",
    "NonSaturatingLoss",
    "ParameterNorm",
    "TransMRSRLoss",
    "cosine_distance",
    "r1_penalty",
]
