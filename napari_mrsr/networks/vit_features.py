"""FD-ViT's feature extractor: UNETR's vision transformer on single slices, and its self-supervised head (NETWORKS 2.2).

The transformer is MONAI's, so that segmentation weights trained with MONAI load. MONAI is imported when a transformer is built.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_mrsr.errors import InputError
from napari_mrsr.networks.blocks.recording import Recorder, wanted
from napari_mrsr.networks.disentangling import resized

ROLLOUT = "vit-rollout"
POSITION = "patch_embedding.position_embeddings"
PATCH = "patch_embedding.patch_embeddings.weight"
_STALE = re.compile(r"(^|\.)(norm_cross_attn|cross_attn|cls_token)(\.|$)")
"""Parameters that some MONAI versions create in the transformer and never use."""


def attention_map(layer: int) -> str:
    """Name of the map of one layer, counted from 1."""
    return f"vit-attention-{layer}"


@dataclass(frozen=True)
class LoadedWeights:
    """What became of a segmentation checkpoint.

    Attributes
    ----------
    loaded : tuple of str
        Names that are in the transformer now.
    ignored : tuple of str
        Names that were left out: the segmentation decoder, and parameters the transformer never uses.
    grid : tuple of int
        Token grid the position embeddings were trained on.
    resampled : bool
        Whether the position embeddings were interpolated to this transformer's grid.
    """

    loaded: tuple[str, ...]
    ignored: tuple[str, ...]
    grid: tuple[int, ...]
    resampled: bool


class ViTFeatures(nn.Module):
    """Feature vector f_ViT of a slice (eq. 1, 2, 14 to 19): tokens of a ViT after its last layer norm.

    The paper does not say how slices enter a 3D transformer. Here every slice is resampled to one `size`, so that low and high resolution
    give equally many tokens, and in the 3D design repeated along depth until it is one patch deep. That is exactly a 2D transformer whose
    patch weights are summed over depth.

    Parameters
    ----------
    size : int
        Edge to which slices are resampled, 256; a multiple of `patch`.
    patch : int
        Edge of a patch, 16.
    hidden_size, layers, heads, mlp_dim : int
        ViT-B: 768, 12, 12, 3072.
    design : {"3d", "2d"}
        Patches of 16 x 16 x 16 of the repeated slice, as UNETR's, or of 16 x 16.
    features : {"flatten", "mean"}
        All tokens as one vector, or their mean.

    Raises
    ------
    InputError
        If MONAI is missing, an option is unknown, or sizes do not divide.
    """

    def __init__(
        self,
        size: int = 256,
        patch: int = 16,
        hidden_size: int = 768,
        layers: int = 12,
        heads: int = 12,
        mlp_dim: int = 3072,
        design: Literal["3d", "2d"] = "3d",
        features: Literal["flatten", "mean"] = "flatten",
    ) -> None:
        super().__init__()
        if design not in ("3d", "2d"):
            raise InputError(f"ViT features: design is '3d' or '2d', not {design!r}.")
        if features not in ("flatten", "mean"):
            raise InputError(f"ViT features: features is 'flatten' or 'mean', not {features!r}.")
        if size < patch or size % patch:
            raise InputError(f"ViT features: the image size must be a multiple of the patch size {patch}, not {size}.")
        if hidden_size % heads:
            raise InputError(f"ViT features: the hidden size {hidden_size} must be a multiple of the number of heads, not of {heads}.")
        self.size, self.patch, self.features, self.edge = size, patch, features, size // patch
        self.depth = patch if design == "3d" else None
        shape = (size, size) if self.depth is None else (size, size, self.depth)
        # Any: MONAI is not typed.
        self.vit: Any = _monai_vit()(
            in_channels=1,
            img_size=shape,
            patch_size=(patch,) * len(shape),
            hidden_size=hidden_size,
            mlp_dim=mlp_dim,
            num_layers=layers,
            num_heads=heads,
            spatial_dims=len(shape),
        )
        for block in self.vit.blocks:
            block.norm_cross_attn = block.cross_attn = nn.Identity()  # parameters that MONAI makes and never uses
            block.attn.use_flash_attention = True  # softmax in float32 for all dtypes, and no attention matrix in memory

    @property
    def dimension(self) -> int:
        """Length of the feature vector: D = tokens x hidden size, or the hidden size for means."""
        hidden: int = self.vit.norm.normalized_shape[0]
        return hidden * self.edge**2 if self.features == "flatten" else hidden

    def tokens(self, image: Tensor) -> Tensor:
        """Tokens (B, N, hidden) after the last layer norm, row by row, of images (B, 1, H, W) of any size."""
        tokens: Tensor = self.vit(self._input(image))[0]
        return tokens

    def forward(self, image: Tensor) -> Tensor:
        """Feature vectors (B, D) of images (B, 1, H, W) of any size."""
        tokens = self.tokens(image)
        return tokens.flatten(1) if self.features == "flatten" else tokens.mean(1)

    def _input(self, image: Tensor) -> Tensor:
        image = resized(image, self.size)
        return image if self.depth is None else image.unsqueeze(-1).expand(*image.shape, self.depth)

    # --- segmentation weights ---------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def load_unetr(self, source: str | Path | Mapping[str, Tensor], grid: Sequence[int] | None = None) -> LoadedWeights:
        """Take the transformer of a UNETR that MONAI trained for segmentation; its decoder is left out.

        Position embeddings are interpolated (trilinearly) to this transformer's token grid. Linear patch embeddings of older MONAI versions
        become convolutions. The 2D design takes the weights of a 3D UNETR summed over the depth of the patch.

        Parameters
        ----------
        source : path or mapping
            ``.safetensors`` file, PyTorch file of tensors (never unpickled beyond them), or a state dict, with names from UNETR
            (``vit.blocks...``) or from MONAI's ViT itself.
        grid : sequence of int, optional
            Token grid of the checkpoint, image size / 16 per axis; None: a cube (square) is assumed.

        Returns
        -------
        LoadedWeights

        Raises
        ------
        InputError
            If the file cannot be read, names are missing or unexpected, or shapes do not fit.
        """
        given = _state(source)
        own = self.vit.state_dict()
        tail = re.compile(r"^(?:.*?\.)?vit\.")
        prefixed = any(tail.match(name) for name in given)
        found = {tail.sub("", name, count=1): value for name, value in given.items() if not prefixed or tail.match(name)}
        stale = [name for name in found if _STALE.search(name)]
        found = {name: value for name, value in found.items() if name not in stale}
        found = {name.replace("patch_embeddings.1.", "patch_embeddings."): value for name, value in found.items()}
        missing, unexpected = sorted(own.keys() - found.keys()), sorted(found.keys() - own.keys())
        if missing or unexpected:
            raise InputError(f"UNETR weights: these do not fit this transformer; missing: {_few(missing)}; unexpected: {_few(unexpected)}.")
        found[PATCH], dimensions = self._patch_weight(found[PATCH], own[PATCH])
        trained = tuple(grid) if grid is not None else (round(found[POSITION].shape[1] ** (1 / dimensions)),) * dimensions
        found[POSITION], changed = self._positions(found[POSITION], trained)
        wrong = sorted(name for name, value in found.items() if value.shape != own[name].shape)
        if wrong:
            shapes = f"{tuple(found[wrong[0]].shape)} instead of {tuple(own[wrong[0]].shape)}"
            raise InputError(f"UNETR weights: {_few(wrong)} have other shapes than this transformer ({shapes}); build it with the same sizes.")
        self.vit.load_state_dict(found)
        ignored = [name for name in given if prefixed and not tail.match(name)] + [name for name in given if _STALE.search(name)]
        return LoadedWeights(tuple(sorted(found)), tuple(ignored), trained, changed)

    def _patch_weight(self, weight: Tensor, own: Tensor) -> tuple[Tensor, int]:
        """Patch embedding as this transformer has it, and the dimension it was trained in."""
        p = self.patch
        if weight.ndim == 2:
            # Linear layers took patches as (rows, columns, depth, channel) of one channel.
            dimensions = 3 if weight.shape[1] == p**3 else 2
            if weight.shape[1] == p**dimensions:
                weight = weight.view(-1, 1, *(p,) * dimensions)
        dimensions = weight.ndim - 2
        if dimensions not in (2, 3):
            shape = tuple(weight.shape)
            raise InputError(f"UNETR weights: {PATCH} of shape {shape} is no embedding of one-channel patches of edge {p}; use such a checkpoint.")
        if dimensions == 3 and own.ndim == 4:
            weight = weight.sum(-1)
        return weight, dimensions

    def _positions(self, embeddings: Tensor, trained: tuple[int, ...]) -> tuple[Tensor, bool]:
        """Position embeddings (1, N, hidden) on this transformer's grid, and whether they had to be interpolated."""
        shape = "x".join(map(str, trained))
        if len(trained) not in (2, 3) or torch.Size(trained).numel() != embeddings.shape[1]:
            raise InputError(f"UNETR weights: {embeddings.shape[1]} position embeddings are no grid of {shape}; give the grid they were trained on.")
        volume, mine = (*trained, 1)[:3], (self.edge, self.edge, 1)
        if volume == mine:
            return embeddings, False
        lattice = embeddings.float().transpose(1, 2).reshape(1, -1, *volume)
        moved = F.interpolate(lattice, mine, mode="trilinear", align_corners=False)
        return moved.flatten(2).transpose(1, 2), True

    # --- looking inside ---------------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def look(self, image: Tensor) -> None:
        """Record the maps that are wanted for images (B, 1, H, W): attention of one token, layer by layer, and attention rollout.

        Rollout (Abnar and Zuidema): with A the mean of a layer's heads, the product over layers of ``(A + I) / 2``, averaged over all tokens.
        Only the running product of one layer after the other is kept.
        """
        rollout = wanted(ROLLOUT)
        layers = {index: recorder for index in range(1, len(self.vit.blocks) + 1) if (recorder := wanted(attention_map(index)))}
        if rollout is None and not layers:
            return
        extent = image.shape[2:]
        x = self.vit.patch_embedding(self._input(image))
        flow = torch.eye(x.shape[1], device=x.device).expand(x.shape[0], -1, -1)
        for index, block in enumerate(self.vit.blocks, start=1):
            if recorder := layers.pop(index, None):
                recorder.keep(attention_map(index), self._row(block, x, recorder, extent))
            if rollout is None and not layers:
                return
            if rollout is not None:
                flow = (_attention(block, x).mean(1) @ flow + flow) / 2
            x = block(x)
        if rollout is not None:
            rollout.keep(ROLLOUT, self._drawn(flow.mean(1), extent, "bilinear"))

    def _row(self, block: Any, x: Tensor, recorder: Recorder, extent: torch.Size) -> Tensor:
        # The token that `_drawn` puts at the centre of the chosen pixel.
        row, column = ((2 * q + 1) * self.edge // (2 * n) for q, n in zip(recorder.pixel(), extent, strict=True))
        item = x[recorder.item : recorder.item + 1]
        heads = _attention(block, item, row * self.edge + column)
        return self._drawn(recorder.one_channel(heads), extent, "nearest-exact")

    def _drawn(self, values: Tensor, extent: torch.Size, mode: str) -> Tensor:
        """Values of tokens on the pixels (B, 1, H, W) of the image; tokens need not be whole numbers of pixels."""
        return F.interpolate(values.reshape(len(values), 1, self.edge, self.edge), extent, mode=mode)


def _attention(block: Any, x: Tensor, token: int | None = None) -> Tensor:
    """Attention (B, heads, N, N) of a transformer block (eq. 17), or only the row (B, heads, 1, N) of one token; float32."""
    attention = block.attn
    x = block.norm1(x)
    to_q, to_k, _ = attention.qkv.weight.chunk(3)
    q = F.linear(x if token is None else x[:, token : token + 1], to_q)
    k = F.linear(x, to_k)
    q, k = (y.view(*y.shape[:2], attention.num_heads, -1).transpose(1, 2).float() for y in (q, k))
    return torch.softmax(q @ k.mT * attention.scale, -1)


class OrganClassifier(nn.Module):
    """Pretext task of the self-supervised fine-tuning: name the organ (data set) that a slice shows.

    The linear head D x K starts at zero, so that the first step changes the head only.

    Parameters
    ----------
    features : ViTFeatures
        Fine-tuned together with the head.
    classes : int
        K.
    """

    def __init__(self, features: ViTFeatures, classes: int) -> None:
        super().__init__()
        if classes < 2:
            raise InputError(f"Organ classifier: it needs at least two classes, not {classes}.")
        self.features = features
        self.head = nn.Linear(features.dimension, classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, K) of images (B, 1, H, W), for cross entropy."""
        logits: Tensor = self.head(self.features(image))
        return logits


def _monai_vit() -> Any:
    try:
        from monai.networks.nets import ViT  # type: ignore[attr-defined]
    except ImportError:
        raise InputError("FD-ViT's transformer needs MONAI, which is not installed here: install it with 'pip install monai'.") from None
    return ViT


def _state(source: str | Path | Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors of a checkpoint; a nested ``state_dict`` is opened."""
    given: Any = source
    if not isinstance(source, Mapping):
        path = Path(source)
        try:
            if path.suffix == ".safetensors":
                from safetensors.torch import load_file

                given = load_file(path)
            else:
                given = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise InputError(f"{path}: there is no such file.") from None
        except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, _safetensors_error()):
            raise InputError(f"{path}: this is not a file of PyTorch tensors; give the state dict of a MONAI UNETR, saved by itself.") from None
    while isinstance(given, Mapping) and isinstance(given.get("state_dict"), Mapping):
        given = given["state_dict"]
    tensors = {str(k): v for k, v in given.items() if isinstance(v, Tensor)} if isinstance(given, Mapping) else {}
    if not tensors:
        raise InputError("UNETR weights: there are no named tensors; give the state dict of a MONAI UNETR.")
    return tensors


def _safetensors_error() -> type[Exception]:
    from safetensors import SafetensorError

    return SafetensorError


def _few(names: Sequence[str]) -> str:
    if not names:
        return "none"
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
