"""CST: CFTN's cross-scale transformer, over its input, window by window, or from tiles over a whole volume; and maps of what it attends to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_mrsr.errors import InputError
from napari_mrsr.networks.blocks.cross_scale import attention_row, cross_scale_attention
from napari_mrsr.networks.blocks.patches import extract_patches, flattened, fold_patches, gathered
from napari_mrsr.networks.blocks.recording import Recorder, wanted
from napari_mrsr.networks.blocks.resample import cubic_downsample

VALUES, VALUES_GPU = 2**23, 2**30
"""Values in the patches of windows that are attended to together: a few windows stay in a CPU's cache, other devices need more work at a time."""

Match = Literal["literal", "cosine10"]
Fold = Literal["sum", "mean"]


class CrossScaleTransformer(nn.Module):
    """CST: every LR patch is rebuilt from the HR-sized patches whose downsampled copies resemble it (eq. 6 to 8).

    Shows two maps (:mod:`~napari_mrsr.networks.blocks.recording`), both on lattices whose cells are centred on patches; the exact corner of a
    cell is rounded down to whole output voxels, which matters (half a voxel) only where `scale` and ``patch - stride`` are odd.

    ``cst-attention``
        (1, 1, kx, ky, kz), where one query patch looks: its softmax weights over the key patches, sum 1. The query patch is the one whose centre is
        nearest to the chosen output voxel (of two equally near ones, the higher). A key patch stands for ``r p`` LR voxels; its cell are the
        ``r q`` LR voxels (stride, ``r^2 q`` output voxels) around its centre. In windows these are the keys of the query's own region, which
        reaches past the border of the volume where the window lies there.
    ``cst-entropy``
        (B, 1, nx, ny, nz), how spread out the attention of each query patch is: entropy of its weights in nats divided by the logarithm of the
        number of keys, so that 0 is one key and 1 all keys alike. Cells of ``r q`` output voxels; border cells are repeated where the lattice
        would not cover the output.

    Parameters
    ----------
    channels, embed_channels : int
        Channels of V (48) and of Q and K (24).
    scale : int
        r.
    patch, stride : int
        p = 3 and q = 2, q not above p.
    match : {"literal", "cosine10"}
        Inner products as printed, or CSNLN's L2-normalised keys times 10.
    fold : {"sum", "mean"}
        Overlaps summed as printed, or divided by their count.

    Attributes
    ----------
    window : int or None
        None: every query sees the whole input, as published. An integer (a multiple of q): queries in blocks of that edge see one more block on
        each side.
    suffix : str
        Ending of the names of its maps, where a network has several.
    start : three ints
        After :meth:`survey`: where the input that comes next begins in the whole volume, multiples of q.
    on_chunk : callable or None
        Told the share that is done of a long computation, again and again; what it raises ends the computation.

    Raises
    ------
    InputError
        If an option does not fit.
    """

    def __init__(
        self, channels: int, embed_channels: int, scale: int, patch: int = 3, stride: int = 2, match: Match = "literal", fold: Fold = "sum"
    ) -> None:
        super().__init__()
        if not 1 <= stride <= patch:
            raise InputError(f"CFTN: patches of {patch} voxels need a stride from 1 to {patch}, not {stride}.")
        if match not in ("literal", "cosine10"):
            raise InputError(f"CFTN: match is literal or cosine10, not {match!r}.")
        if fold not in ("sum", "mean"):
            raise InputError(f"CFTN: fold is sum or mean, not {fold!r}.")
        self.scale, self.patch, self.stride, self.match, self.fold = scale, patch, stride, match, fold
        self.embed_v = nn.Conv3d(channels, channels, 1)
        self.embed_q = nn.Conv3d(channels, embed_channels, 1)
        self.embed_k = nn.Conv3d(channels, embed_channels, 1)
        self.window: int | None = None
        self.suffix = ""
        self.start: tuple[int, ...] = (0, 0, 0)
        self.on_chunk: Callable[[float], None] | None = None
        self._keys_of_all: Tensor
        self._values_of_all: Tensor
        self._surveyed: tuple[int, ...] = ()
        # Buffers, so that they follow the module to another device.
        self.register_buffer("_keys_of_all", torch.empty(0), persistent=False)
        self.register_buffer("_values_of_all", torch.empty(0), persistent=False)

    @property
    def entrance(self) -> str:
        """Name under which a :class:`Recorder` finds the input of this module; the network goes no further than this if nothing else is wanted."""
        return f"cst-input{self.suffix}"

    def survey(self, features: Tensor) -> None:
        """Let every query of the inputs to come see a whole volume, of which they are parts (:attr:`start`).

        Parameters
        ----------
        features : (1, C, X, Y, Z) tensor
            Input of this module over the whole volume.
        """
        filled = self._filled(features)
        keys = self._keys(filled)
        self._surveyed = (*features.shape[2:], *filled.shape[2:], *keys.shape[1:4])
        self._keys_of_all, self._values_of_all = keys.flatten(1, 3), self._values(filled)

    def forget(self) -> None:
        """Undo :meth:`survey`."""
        self._surveyed, self._keys_of_all, self._values_of_all = (), torch.empty(0), torch.empty(0)

    def survey_bytes(self, size: Sequence[int], itemsize: int = 4) -> int:
        """Memory that keys and values of a volume of `size` LR voxels take."""
        counts = (math.ceil(math.ceil(n / self.scale) / self.stride) for n in size)
        channels = [next(e.parameters()).shape[0] for e in (self.embed_k, self.embed_v)]
        return itemsize * math.prod(counts) * (channels[0] * self.patch**3 + channels[1] * (self.scale * self.patch) ** 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, X, Y, Z) to (B, C, rX, rY, rZ)."""
        if recorder := wanted(self.entrance):
            recorder.keep(self.entrance, x)
        if self._surveyed:
            return self._in_volume(x)
        if self.window is None or max(x.shape[2:]) <= 3 * self.window:
            return self._whole(x)
        return self._in_windows(x, self.window)

    def _whole(self, x: Tensor) -> Tensor:
        size, r = x.shape[2:], self.scale
        left, _ = _same_padding(size, self.patch, self.stride)
        filled = self._filled(x)
        queries, keys = self._queries(x), self._keys(filled)
        if recorder := wanted(f"cst-attention{self.suffix}"):
            patch = self._nearest_query(recorder, left, queries.shape[1:4])
            self._keep_row(recorder, queries[(recorder.item, *patch)], keys[recorder.item], filled.shape[2:], [0, 0, 0])
        recorder = wanted(f"cst-entropy{self.suffix}")
        entropy = _room_for_entropies(queries) if recorder else None
        out = cross_scale_attention(queries, keys.flatten(1, 3), self._values(filled), r * self.stride, entropy=entropy, progress=self.on_chunk)
        if recorder and entropy is not None:
            self._keep_entropy(recorder, entropy, math.prod(keys.shape[1:4]), left, size)
        x0, y0, z0 = (r * n for n in left)
        return self._normalise(out)[:, :, x0 : x0 + r * size[0], y0 : y0 + r * size[1], z0 : z0 + r * size[2]]

    def _in_volume(self, x: Tensor) -> Tensor:
        """Queries of a part among keys and values of the whole volume, where they would lie if all of it came at once."""
        p, q, r, size = self.patch, self.stride, self.scale, x.shape[2:]
        keys, values = self._keys_of_all, self._values_of_all
        left, _ = _same_padding(self._surveyed[:3], p, q)
        padding: list[int] = []
        for n, whole, start, low in zip(size, self._surveyed[:3], self.start, left, strict=True):
            # Patches that reach past the end of the whole volume are as many as there.
            count = math.ceil(whole / q) - start // q if start + n == whole else (n - 1 + low) // q + 1
            padding = [low, (count - 1) * q + p - n - low, *padding]
        queries = flattened(extract_patches(F.pad(self.embed_q(x), padding), p, q))
        if recorder := wanted(f"cst-attention{self.suffix}"):
            patch = self._nearest_query(recorder, left, queries.shape[1:4])
            row_keys = keys[0].view(*self._surveyed[6:], -1)
            self._keep_row(recorder, queries[(recorder.item, *patch)], row_keys, self._surveyed[3:6], [-s for s in self.start])
        recorder = wanted(f"cst-entropy{self.suffix}")
        entropy = _room_for_entropies(queries) if recorder else None
        b = x.shape[0]
        out = cross_scale_attention(
            queries, keys.expand(b, -1, -1), values.expand(b, *values.shape[1:]), r * q, entropy=entropy, progress=self.on_chunk
        )
        if recorder and entropy is not None:
            self._keep_entropy(recorder, entropy, keys.shape[1], left, size)
        x0, y0, z0 = (r * n for n in left)
        return self._normalise(out)[:, :, x0 : x0 + r * size[0], y0 : y0 + r * size[1], z0 : z0 + r * size[2]]

    def _in_windows(self, x: Tensor, window: int) -> Tensor:
        b, channels, *size = x.shape
        counts = [math.ceil(n / window) for n in size]
        padding = [pad for n, count in zip(reversed(size), reversed(counts), strict=True) for pad in (window, (count + 1) * window - n)]
        regions = extract_patches(F.pad(x, padding, mode="replicate"), 3 * window, window)
        r, n = self.scale, window // self.stride
        edge = r * (window + self.patch - self.stride)
        if recorder := wanted(f"cst-attention{self.suffix}"):
            patch = self._nearest_query(recorder, [0, 0, 0], [n * count for count in counts])
            region = regions[(recorder.item, *(i // n for i in patch))][None]
            filled = self._filled(region)
            query = self._queries(region, window)[(0, *(i % n for i in patch))]
            self._keep_row(recorder, query, self._keys(filled)[0], filled.shape[2:], [window * (i // n - 1) for i in patch])
        recorder = wanted(f"cst-entropy{self.suffix}")
        entropies: list[Tensor] = []
        folded = (b, channels, *((count - 1) * r * window + edge for count in counts))
        out = torch.empty(folded, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d).zero_()
        keys = math.ceil(math.ceil(3 * window / r) / self.stride) ** 3
        together = max(1, (VALUES if x.device.type == "cpu" else VALUES_GPU) // (keys * channels * (r * self.patch) ** 3))
        for i in range(counts[0]):
            blocks, rows = [], []
            for group in torch.split(gathered(regions[:, i : i + 1]).flatten(0, 3), together):
                filled = self._filled(group)
                queries, values = self._queries(group, window), self._values(filled)
                entropy = _room_for_entropies(queries) if recorder else None
                blocks.append(cross_scale_attention(queries, self._keys(filled).flatten(1, 3), values, r * self.stride, entropy=entropy))
                rows += [entropy] if entropy is not None else []
            pieces = torch.cat(blocks).view(b, 1, counts[1], counts[2], channels, edge, edge, edge)
            fold_patches(pieces, out[:, :, i * r * window : i * r * window + edge], r * window)
            if rows:
                plane = torch.cat(rows).view(b, counts[1], counts[2], n, n, n).permute(0, 3, 1, 4, 2, 5)
                entropies.append(plane.reshape(b, n, counts[1] * n, counts[2] * n))
            if self.on_chunk:
                if out.is_cuda:  # else all planes are handed over before anybody is asked
                    torch.cuda.synchronize(out.device)
                self.on_chunk((i + 1) / counts[0])
        if recorder:
            self._keep_entropy(recorder, torch.cat(entropies, 1), keys, [0, 0, 0], size)
        return self._normalise(out)[:, :, : r * size[0], : r * size[1], : r * size[2]]

    def _queries(self, x: Tensor, window: int | None = None) -> Tensor:
        """Query patches of all of `x`, or of the middle window of regions of three; (B, nx, ny, nz, D)."""
        p, q = self.patch, self.stride
        embedded = self.embed_q(x)
        if window is None:
            embedded = F.pad(embedded, _same_padding(x.shape[2:], p, q)[1])
        else:
            inner = slice(window, 2 * window + p - q)
            embedded = embedded[:, :, inner, inner, inner]
        return flattened(extract_patches(embedded, p, q))

    def _keys(self, filled: Tensor) -> Tensor:
        """Patches of the downsampled input, (B, kx, ky, kz, D)."""
        coarse = cubic_downsample(filled, self.scale)
        padding = _same_padding(coarse.shape[2:], self.patch, self.stride)[1]
        keys = flattened(extract_patches(F.pad(self.embed_k(coarse), padding), self.patch, self.stride))
        if self.match == "cosine10":
            keys = 10 * keys / keys.norm(dim=-1, keepdim=True).clamp_min(1e-4)
        return keys

    def _values(self, filled: Tensor) -> Tensor:
        """Patches r times as large, in the places of the keys; (B, kx ky kz, C, rp, rp, rp)."""
        r = self.scale
        padding = _same_padding([n // r for n in filled.shape[2:]], self.patch, self.stride)[1]
        return gathered(extract_patches(F.pad(self.embed_v(filled), [r * n for n in padding]), r * self.patch, r * self.stride)).flatten(1, 3)

    def _filled(self, x: Tensor) -> Tensor:
        """`x` continued to multiples of r."""
        padding = [pad for n in reversed(x.shape[2:]) for pad in (0, -n % self.scale)]
        return F.pad(x, padding, mode="replicate") if any(padding) else x

    def _normalise(self, folded: Tensor) -> Tensor:
        if self.fold == "sum":
            return folded
        edge, step = self.scale * self.patch, self.scale * self.stride
        for axis in (2, 3, 4):
            n = folded.shape[axis]
            position = torch.arange(n, device=folded.device)
            first = torch.clamp((position - edge) // step + 1, min=0)
            last = torch.clamp(position // step, max=(n - edge) // step)
            shape = [1] * 5
            shape[axis] = n
            folded = folded / (last - first + 1).to(folded.dtype).view(shape)
        return folded

    def _corner(self, left: int, unit: int) -> int:
        """Output voxel where the cell around the first patch begins; `unit` output voxels per voxel that the patch is cut from."""
        return unit * (self.patch - self.stride) // 2 - unit * left

    def _nearest_query(self, recorder: Recorder, left: Sequence[int], counts: Sequence[int]) -> list[int]:
        step = self.scale * self.stride
        cells = ((voxel - self._corner(n, self.scale)) // step for voxel, n in zip(recorder.pixel(), left, strict=True))
        return [min(max(cell, 0), count - 1) for cell, count in zip(cells, counts, strict=True)]

    def _keep_row(self, recorder: Recorder, query: Tensor, keys: Tensor, size: Sequence[int], start: Sequence[int]) -> None:
        """Show where one query looks among the keys (kx, ky, kz, D) of a region of `size` LR voxels that begins at `start`."""
        unit = self.scale**2
        left, _ = _same_padding([n // self.scale for n in size], self.patch, self.stride)
        row = attention_row(query, keys.flatten(0, 2)).view(1, 1, *keys.shape[:3])
        offset = tuple(self.scale * s + self._corner(n, unit) for s, n in zip(start, left, strict=True))
        recorder.keep(f"cst-attention{self.suffix}", row, unit * self.stride, offset)

    def _keep_entropy(self, recorder: Recorder, nats: Tensor, keys: int, left: Sequence[int], size: Sequence[int]) -> None:
        step = self.scale * self.stride
        offset: list[int] = []
        padding: list[int] = []
        for n, cells, voxels in zip(left, nats.shape[1:], size, strict=True):
            corner = self._corner(n, self.scale)
            low = max(0, math.ceil(corner / step))
            high = max(0, math.ceil((self.scale * voxels - corner) / step) - cells)
            offset.append(corner - low * step)
            padding = [low, high, *padding]
        share = nats[:, None] / math.log(keys) if keys > 1 else nats[:, None]
        recorder.keep(f"cst-entropy{self.suffix}", F.pad(share, padding, mode="replicate"), step, tuple(offset))


def _room_for_entropies(queries: Tensor) -> Tensor:
    return queries.new_zeros(queries.shape[:4], dtype=torch.promote_types(queries.dtype, torch.float32))


def _same_padding(size: Sequence[int], patch: int, stride: int) -> tuple[list[int], list[int]]:
    """Left pads per axis and F.pad's list, zero padding in CSNLN's "same" style (less on the left)."""
    totals = [max(0, (math.ceil(n / stride) - 1) * stride + patch - n) for n in size]
    left = [t // 2 for t in totals]
    return left, [pad for t, n in zip(reversed(totals), reversed(left), strict=True) for pad in (n, t - n)]
