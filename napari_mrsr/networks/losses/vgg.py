"""The convolutions of VGG19 as a frozen measure of likeness, filled from torchvision's own weights file."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import platformdirs
import torch
from torch import Tensor, nn

from napari_mrsr.errors import InputError
from napari_mrsr.io import make_folder, require_readable, write_whole
from napari_mrsr.io.torch_files import read_torch_file

URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
FILE = "vgg19-dcbb9e9d.pth"
SHA256_PREFIX = "dcbb9e9d"
"""First digits of the file's sha256, which torchvision made part of its name."""

SIZE = 575
"""Of that file, in MB."""

CONFIGURATION = (64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M", 512, 512, 512, 512, "M", 512, 512, 512, 512, "M")
"""Output channels of the convolutions (each followed by a ReLU); M is a 2x2 max pooling."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's red, green and blue, in 0..1."""

log = logging.getLogger(__name__)


def as_vgg_input(image: Tensor) -> Tensor:
    """Image of one channel as VGG's colour image: replicated, then normalised by ImageNet's mean and standard deviation.

    Parameters
    ----------
    image : (B, 1, H, W) tensor
        Intensities in 0..1.

    Returns
    -------
    (B, 3, H, W) tensor

    Raises
    ------
    InputError
        If it is not one channel of slices.
    """
    if image.ndim != 4 or image.shape[1] != 1:
        raise InputError(f"One-channel slices of shape (B, 1, H, W) are needed, not {tuple(image.shape)}.")
    return (image - image.new_tensor(MEAN).view(3, 1, 1)) / image.new_tensor(STD).view(3, 1, 1)


class VGGFeatures(nn.Module):
    """``features`` of VGG19 up to the last layer that is asked for, frozen and always in eval mode; gradients reach the image.

    Layers are counted from 0 over convolutions, ReLUs and poolings, as in torchvision, whose names the weights have. ReLUs leave their input
    as it was, so that the features before one are really those.

    Parameters
    ----------
    layers : sequence of int
        Layers whose outputs are wanted, 0 to 36.
    path : path, optional
        torchvision's ``vgg19-dcbb9e9d.pth``; None takes it from the user's cache folder, downloading it once.

    Raises
    ------
    InputError
        If a layer does not exist, or the weights are missing or others.
    """

    def __init__(self, layers: Sequence[int], path: str | os.PathLike[str] | None = None) -> None:
        super().__init__()
        self.wanted = tuple(sorted(set(layers)))
        everything = _layers()
        unknown = [n for n in self.wanted if not (isinstance(n, int) and 0 <= n < len(everything))]
        if unknown or not self.wanted:
            raise InputError(f"VGG19 has layers 0 to {len(everything) - 1}, not {unknown[0] if unknown else 'an empty list'}.")
        file = _downloaded() if path is None else require_readable(path)
        state = _read(file)
        self.features = nn.Sequential(*everything[: self.wanted[-1] + 1]).to_empty(device="cpu")
        self.load_state_dict({k: state[k] for k in self.state_dict()})
        if bad := [k for k, v in self.state_dict().items() if not torch.isfinite(v).all()]:
            raise InputError(f"{file.name}: the weights {bad[0]} contain NaN or infinite values; the file cannot be used.")
        self.requires_grad_(False)
        self.train(False)

    def train(self, _mode: bool = True) -> VGGFeatures:
        """Stay in eval mode."""
        super().train(False)
        return self

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """Outputs of the wanted layers.

        Parameters
        ----------
        image : (B, 3, H, W) tensor
            Normalised as ImageNet is (:func:`as_vgg_input`).

        Returns
        -------
        dict from layer to (B, C, H', W') tensor
        """
        found = {}
        for index, layer in enumerate(self.features):
            image = layer(image)
            if index in self.wanted:
                found[index] = image
        return found


def _layers() -> list[nn.Module]:
    """All layers, without memory for their weights."""
    layers: list[nn.Module] = []
    channels = 3
    with torch.device("meta"):
        for entry in CONFIGURATION:
            if isinstance(entry, str):
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [nn.Conv2d(channels, entry, 3, padding=1), nn.ReLU(inplace=False)]
                channels = entry
    return layers


def _read(path: Path) -> dict[str, Tensor]:
    """Weights of all convolutions of a file; the file must be VGG19's, not merely one whose first layers look like it."""
    if SHA256_PREFIX in path.name:
        _require_checksum(path)
    content = read_torch_file(path)
    found = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}
    wanted = {f"features.{k}": v for k, v in nn.Sequential(*_layers()).state_dict().items()}
    for name, value in wanted.items():
        if name not in found:
            raise InputError(f"{path.name} does not hold torchvision's VGG19: {name} is missing; give {FILE}.")
        if found[name].shape != value.shape:
            sizes = f"{tuple(found[name].shape)} instead of {tuple(value.shape)}"
            raise InputError(f"{path.name} does not hold torchvision's VGG19: {name} is {sizes}; give {FILE}.")
    if extra := sorted(k for k in found if k.startswith("features.") and k not in wanted):
        raise InputError(f"{path.name} does not hold torchvision's VGG19: {extra[0]} is unexpected; give {FILE}.")
    return {k: found[k] for k in wanted}


def _require_checksum(path: Path) -> None:
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if not found.startswith(SHA256_PREFIX):
        raise InputError(f"{path.name} is damaged or cut off: its sha256 starts with {found[:8]}, not {SHA256_PREFIX}; get it again from {URL}.")


def _downloaded() -> Path:
    """The file in the user's cache folder, fetched if it is not there or damaged; whole or not at all."""
    import pooch  # type: ignore[import-untyped]
    import requests  # type: ignore[import-untyped]
    from tqdm import tqdm

    path = Path(platformdirs.user_cache_dir("napari-mrsr")) / FILE
    if path.exists():
        try:
            _require_checksum(path)
        except InputError:
            log.warning("%s is damaged and is downloaded again.", path)
        else:
            return path
    log.info("Downloading %s (%d MB) into %s.", URL, SIZE, path.parent)
    make_folder(path.parent)
    with write_whole(path, overwrite=True, need_bytes=SIZE * 10**6) as temporary, tqdm(desc=FILE, unit="B", unit_scale=True, disable=None) as bar:
        download: Any = pooch.HTTPDownloader(progressbar=bar, chunk_size=2**20)
        try:
            download(URL, temporary, None)
        except (requests.RequestException, ConnectionError, TimeoutError, RuntimeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0][:120]
            raise InputError(
                f"VGG19's weights could not be downloaded from {URL} ({reason}): "
                f"give the path of a copy (vgg=...), or switch the VGG terms off (use_vgg=False)."
            ) from None
        _require_checksum(temporary)
    return path
