"""Networks translated for the device by ``torch.compile``, where that works and changes nothing."""

from __future__ import annotations

import logging

import numpy as np
import torch
from torch import nn

from napari_mrsr.inference.feed import Feed
from napari_mrsr.inference.precision import probe_tile

SAME = 1e-3
"""Largest difference from the untranslated network, as a share of the range, that counts as rounding."""

log = logging.getLogger(__name__)


def translate(feed: Feed) -> str:
    """Translate a feed's network in place, after a look at one tile; gives a sentence where it stays as it is, else an empty text."""
    network, name = feed.network, feed.job.card.name
    tile = probe_tile(feed)
    expected = feed.run(tile)[""]
    for part in feed.architecture.attention(network):
        # Translated by torch 2.13 it gives other values (3e-3 of the range), and takes ten times as long to translate.
        part.forward = torch.compiler.disable(part.forward)  # type: ignore[method-assign, no-untyped-call]
    network.compile()
    try:
        found = feed.run(tile)[""]
    except Exception as error:  # noqa: BLE001 - compilers end in errors of many kinds; the run goes on without
        log.warning("torch.compile: %s", error)
        _undo(feed)
        return f"{name} could not be translated for {feed.device} ({type(error).__name__}; is a C++ compiler installed?) and runs as it is."
    if not np.abs(found - expected).max() <= SAME * feed.job.gain:
        _undo(feed)
        return f"{name} translated for {feed.device} gives other values on a tile; it runs as it is."
    return ""


def is_translated(network: nn.Module) -> bool:
    """Whether a network was translated."""
    return getattr(network, "_compiled_call_impl", None) is not None


def _undo(feed: Feed) -> None:
    feed.network._compiled_call_impl = None
    for part in feed.architecture.attention(feed.network):
        del part.forward
