"""TransMRSR: transformer-based self-distilled generative prior for brain MRI super-resolution.

Reads top to bottom as the paper's figure 2 does: shallow convolutions, Swin encoder, styles with self-distilled truncation (SDT), the
StyleSwin decoder modulated by the encoder (CWSS), reconstruction. Where the paper's text and the released network differ, the released one
is the default and an option gives the other. Equation numbers are the paper's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from napari_mrsr.errors import InputError
from napari_mrsr.networks.architecture import Architecture, MapInfo
from napari_mrsr.networks.blocks.centring import Centring
from napari_mrsr.networks.blocks.moments import at_least_float32
from napari_mrsr.networks.blocks.noise import with_noise_level
from napari_mrsr.networks.blocks.recording import wanted
from napari_mrsr.networks.blocks.scale_shift import ChannelwiseScaleShift, ConvolutionStage
from napari_mrsr.networks.blocks.style import EqualisedLinear, to_image, to_tokens
from napari_mrsr.networks.blocks.swin import EncoderLevel, PatchMerging, ResidualSwinStage
from napari_mrsr.networks.blocks.windows import in_windows
from napari_mrsr.networks.styleswin import Channels, StyleSwinDecoder, StyleSwinGenerator, channel_widths, check_heads, check_window

PAPER = "TransMRSR: Transformer-based self-distilled generative prior for brain MRI super-resolution"
NOISE_GAIN = 20.0
"""Brings noise levels of some percent of the range to the magnitude of the image itself."""

COLOURS = 3
MEAN, SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's three channels in 0 to 1; the network's normalised units."""

SCALES = (2, 3, 4, 5, 6, 7, 8)
Truncation = Literal["nearest", "farthest"]
Prior = Literal["tuned", "frozen", "none"]

ABLATIONS: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "w/o GP": {"prior": "none"},
        "w/o SDT": {"truncation": None},
        "w/o MREF": {"modulation": False, "skip": False},
        "w/o SC": {"skip": False},
        "frozen GP": {"prior": "frozen"},
        "fixed GP, w/o MREF": {"prior": "frozen", "modulation": False, "skip": False},
    }
)
"""The paper's tables 3 and 4 and section 4.5.3: name of the ablation to constructor options. Without MREF the released network has no skip
connections either; ``{"modulation": False}`` alone keeps them."""


def _require(name: str, value: object, known: tuple[object, ...]) -> None:
    if value not in known:
        raise InputError(f"TransMRSR: {name} must be one of {', '.join(map(repr, known))}, not {value!r}.")


def _encoder_heads(widths: Mapping[int, int], given: Sequence[int] | None) -> dict[int, int]:
    """Heads by resolution, from the finest level to the coarsest (8)."""
    levels = [r for r in reversed(widths) if r > 4]
    # The released encoder reads the decoder's list, which begins at resolution 4, from the finest level on.
    heads = [max(n // 32, 4) for n in widths.values()][: len(levels)] if given is None else list(given)
    if len(heads) != len(levels):
        raise InputError(f"The encoder has {len(levels)} levels and needs as many numbers of heads, not {len(heads)}.")
    for r, n in zip(levels, heads, strict=True):
        if n < 1 or widths[r] % n:
            raise InputError(f"{n} encoder heads do not divide the {widths[r]} channels at resolution {r}: give encoder_heads that do.")
    return dict(zip(levels, heads, strict=True))


class TransMRSR(nn.Module):
    """The network (paper's figure 2): 160,842,497 parameters in the published configuration.

    Parameters
    ----------
    scale : int
        2 to 8; only recorded, because the input is interpolated to the fine grid before.
    size : int
        Side of the slices inside, a power of two from 32 on. Other sizes are padded with black, larger ones cut into overlapping windows.
    channel_multiplier, width_divisor, channels
        Widths by resolution (:func:`~napari_mrsr.networks.styleswin.channel_widths`).
    style_dim : int
        Of each of the ``2 log2(size) - 2`` style codes.
    encoder_heads : sequence of int, optional
        Attention heads from the finest level (`size`) to the coarsest (8). None: as released, the decoder's numbers counted from resolution
        4 upward, which gives the finest level the most heads.
    decoder_heads : sequence of int, optional
        From resolution 4 upward (:func:`~napari_mrsr.networks.styleswin.check_heads`).
    window : int
        Attention window, a power of two up to 8.
    mlp_ratio : float
        Width inside the perceptrons.
    half_modulation : bool
        See :class:`ChannelwiseScaleShift`.
    modulation : bool
        Whether the encoder modulates the decoder (MREF).
    skip : bool
        Whether shallow features join the deep ones and the input joins the output (SC, eq. 10, 11).
    scaled_attention : bool
        Multiply the encoder's scores by d^-1/2; the released network does not.
    truncation : {"nearest", "farthest"} or None
        Centroid each style is pulled to (SDT, eq. 5) where there are centroids: the nearest as in the paper, or the farthest, which the
        released network chooses by mistake. None: styles stay.
    psi : float
        What is kept of a style's distance to its centroid.
    clusters : int
        Number of centroids, which weights files hold under ``centroids``; zero vectors until they are set or loaded.
    centroids : (clusters, style_dim) tensor, optional
        Their values (:func:`~napari_mrsr.networks.centroids.style_centroids`).
    prior : {"tuned", "frozen", "none"}
        The decoder is fine-tuned; stays as loaded; or is random, and :meth:`load_prior` refuses (GP).
    overlap : float
        Least share of a window's side that neighbours have in common on slices larger than `size`, 0 to 0.5.
    noise_channel : bool
        Take the noise level as a further input channel. Off in the paper.
    init : {"default", "residual"}
        Normal weights (0.02) outside the prior as released, or framework defaults with a silent last layer, so that the network starts as
        the interpolation it is given.

    Raises
    ------
    InputError
        If sizes, widths and heads do not fit together or an option is unknown.
    """

    centroids: Tensor | None

    def __init__(
        self,
        scale: int = 2,
        size: int = 256,
        channel_multiplier: int = 1,
        width_divisor: int = 1,
        channels: Channels | None = None,
        style_dim: int = 512,
        encoder_heads: Sequence[int] | None = None,
        decoder_heads: Sequence[int] | None = None,
        window: int = 8,
        mlp_ratio: float = 4.0,
        half_modulation: bool = True,
        modulation: bool = True,
        skip: bool = True,
        scaled_attention: bool = False,
        truncation: Truncation | None = "nearest",
        psi: float = 0.9,
        clusters: int = 0,
        centroids: Tensor | Sequence[Sequence[float]] | None = None,
        prior: Prior = "tuned",
        overlap: float = 0.25,
        noise_channel: bool = False,
        init: Literal["default", "residual"] = "default",
    ) -> None:
        super().__init__()
        _require("scale", scale, SCALES)
        _require("truncation", truncation, ("nearest", "farthest", None))
        _require("prior", prior, ("tuned", "frozen", "none"))
        _require("init", init, ("default", "residual"))
        _require("window", check_window(window), (2, 4, 8))
        if not 0 <= overlap <= 0.5:
            raise InputError(f"Windows can share 0 to 0.5 of their side, not {overlap}.")
        if init == "residual" and not skip:
            raise InputError("A start as interpolation needs the skip connections: use init='default' or skip=True.")
        widths = channel_widths(size, channel_multiplier, width_divisor, channels)
        heads = check_heads(widths, decoder_heads)
        self.scale, self.size, self.style_dim, self.overlap, self.noise_channel = scale, size, style_dim, overlap, noise_channel
        self.skip, self.truncation, self.psi, self.prior = skip, truncation, psi, prior

        fine = widths[size]
        self.shallow = ConvolutionStage(4 if noise_channel else 3, fine)
        self.embed = nn.LayerNorm(fine)
        levels = []
        for r, n in _encoder_heads(widths, encoder_heads).items():
            show = (f"encoder-attention-{r}", size // r)
            stage = ResidualSwinStage(r, widths[r], n, window, mlp_ratio, scaled_attention, show)
            levels.append(EncoderLevel(stage, PatchMerging(widths[r], widths[r // 2])))
        self.encoder = nn.ModuleList(levels)
        self.modulation = nn.ModuleDict(
            {str(r): ChannelwiseScaleShift(r, size // r, n, half_modulation) for r, n in widths.items() if modulation and r < size}
        )
        self.style_norm = nn.LayerNorm(widths[4])
        self.to_styles = EqualisedLinear(16 * widths[4], 2 * len(widths) * style_dim, rate=0.01, activation=True)
        self.decoder = StyleSwinDecoder(widths, heads, style_dim, window, mlp_ratio)
        self.deep = ConvolutionStage(fine, fine)
        self.last = nn.Conv2d(fine, 3, 1)
        self._initialise(init)
        self.decoder.requires_grad_(prior != "frozen")

        self.register_buffer("centroids", torch.zeros(clusters, style_dim) if clusters else None)
        if centroids is not None:
            self.set_centroids(centroids)
            if clusters not in (0, self.clusters):
                raise InputError(f"There are {self.clusters} centroids, but clusters is {clusters}: give one of the two.")

    @torch.no_grad()
    def _initialise(self, init: str) -> None:
        for name, module in self.named_modules():
            if name.startswith("decoder."):
                continue
            if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and init == "default"):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if init == "residual":
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(cast(Tensor, self.last.bias))

    @property
    def clusters(self) -> int:
        """Number of centroids."""
        return 0 if self.centroids is None else len(self.centroids)

    def set_centroids(self, centroids: Tensor | Sequence[Sequence[float]]) -> None:
        """Give the styles centroids (:func:`~napari_mrsr.networks.centroids.style_centroids`); they become part of the state dict.

        Parameters
        ----------
        centroids : (clusters, style_dim) tensor

        Raises
        ------
        InputError
            If the shape is another or a value is not finite.
        """
        values = torch.as_tensor(centroids).to(self.to_styles.bias)
        if values.ndim != 2 or len(values) == 0 or values.shape[1] != self.style_dim:
            raise InputError(f"Centroids must be a (clusters, {self.style_dim}) table, not of shape {tuple(values.shape)}.")
        if not values.is_meta and not torch.isfinite(values).all():
            raise InputError("The centroids contain NaN or infinite values.")
        self.centroids = values.detach().clone()

    def load_prior(self, source: StyleSwinGenerator | Mapping[str, Tensor]) -> tuple[str, ...]:
        """Copy a generator of stage 1 into the decoder; its mapping network and RGB heads are left out.

        Parameters
        ----------
        source : StyleSwinGenerator or mapping
            The generator, or the state dict of its decoder.

        Returns
        -------
        tuple of str
            Weights of the decoder that `source` lacks and that stay as they were; empty where all were there.

        Raises
        ------
        InputError
            If this network is to have no prior, nothing fits, or a shape differs.
        """
        if self.prior == "none":
            raise InputError("This network was built without a generative prior (prior='none'): build it with prior='tuned' or 'frozen'.")
        state = source.decoder.state_dict() if isinstance(source, StyleSwinGenerator) else dict(source)
        own = self.decoder.state_dict()
        if not own.keys() & state.keys():
            raise InputError("These weights hold no StyleSwin decoder.")
        for name in own.keys() & state.keys():
            if own[name].shape != state[name].shape:
                found, needed = tuple(state[name].shape), tuple(own[name].shape)
                raise InputError(f"The prior was trained for another size or width: {name} is {found}, this decoder has {needed}.")
        self.decoder.load_state_dict({k: v for k, v in state.items() if k in own}, strict=False)
        return tuple(k for k in own if k not in state)

    def forward(self, lr: Tensor, reference: Tensor | None = None, noise_level: Tensor | float | None = None) -> Tensor:
        """Super-resolve slices that are already on the fine grid.

        Parameters
        ----------
        lr : (B, 1, H, W) tensor
            Interpolated slices, intensities divided by the volume's range. Three channels of the trained size, normalised as ImageNet's, go through
            the published network as they are and come back so (:meth:`body`).
        reference : None
            TransMRSR takes no second contrast.
        noise_level : tensor broadcastable to `lr`, float, or None
            Noise standard deviation in the units of `lr`; used only with `noise_channel` (None: 0).

        Returns
        -------
        (B, 1, H, W) tensor
        """
        if lr.shape[1] == COLOURS:
            return self._published(lr)
        align = self.size // 4
        # The decoder starts from a constant and knows places, so the anatomy goes to the middle, where it was in training.
        frame = [self.size if n <= self.size else math.ceil(n / align) * align for n in lr.shape[2:]]
        centring = Centring(lr.shape[2:], frame)
        x = centring.pad(lr)
        if self.noise_channel:
            x = torch.cat([x, centring.pad(with_noise_level(lr, noise_level, NOISE_GAIN)[:, 1:], "replicate")], 1)
        with centring:
            out = in_windows(self._slices, [(x, 1)], (self.size, self.size), self.overlap, align=align)
        return centring.crop(out)

    def _published(self, x: Tensor) -> Tensor:
        if tuple(x.shape[2:]) != (self.size, self.size) or self.noise_channel:
            raise InputError(
                f"TransMRSR takes slices of one channel, or, as published, without noise level, "
                f"of three channels and {self.size} x {self.size} pixels; these are {tuple(x.shape[1:])}."
            )
        return self.body(x)

    def _slices(self, x: Tensor) -> Tensor:
        mean, sd = (x.new_tensor(values).view(3, 1, 1) for values in (MEAN, SD))
        colour = (x[:, :1] - mean) / sd
        out = self.body(torch.cat([colour, x[:, 1:]], 1))
        return (out * sd + mean).mean(1, keepdim=True)

    def body(self, x: Tensor) -> Tensor:
        """The published network.

        Parameters
        ----------
        x : (B, 3, size, size) tensor
            In ImageNet's normalised units; a fourth channel is the noise level, with `noise_channel`.

        Returns
        -------
        (B, 3, size, size) tensor
            In the same units.
        """
        shallow = self.shallow(x)
        features = self.embed(to_tokens(shallow))
        encoded: dict[int, Tensor] = {}
        for level in self.encoder:
            features = level(features)
            encoded[features.shape[1]] = features
        styles = self.to_styles(self.style_norm(features).flatten(1)).view(len(x), -1, self.style_dim)

        def modulate(resolution: int, y: Tensor) -> Tensor:
            key = str(resolution)
            return cast(Tensor, self.modulation[key](y, encoded[resolution])) if key in self.modulation else y

        deep = to_image(self.decoder(self.truncate(styles), modulate))
        out: Tensor = self.last(self.deep(deep + shallow if self.skip else deep))
        return out + x[:, :3] if self.skip else out

    def truncate(self, styles: Tensor) -> Tensor:
        """Pull each style towards its centroid (eq. 5): ``c + psi (w - c)``; (B, n, style_dim) to the same."""
        if self.centroids is None:
            return styles
        wide, centroids = at_least_float32(styles), at_least_float32(self.centroids)
        squares = (wide[:, :, None] - centroids).square().sum(-1)
        if recorder := wanted("style-distance"):
            recorder.keep("style-distance", squares.sqrt())
        if self.truncation is None:
            return styles
        chosen = centroids[squares.argmin(-1) if self.truncation == "nearest" else squares.argmax(-1)]
        return torch.lerp(chosen, wide, self.psi).to(styles.dtype)

    def maps(self) -> tuple[MapInfo, ...]:
        """What can be shown: modulation and attention at each resolution, distances of styles to centroids."""
        head = " Mean over the heads, or one head."
        found = []
        for r in self.modulation:
            text = f"by which the encoder {{}} the decoder's map at {r} x {r} (CWSS); one channel, or the mean absolute value over all."
            found += [
                MapInfo(f"cwss-scale-{r}", f"CWSS scale, {r} x {r}", "Factor " + text.format("multiplies"), signed=True),
                MapInfo(f"cwss-shift-{r}", f"CWSS shift, {r} x {r}", "Offset " + text.format("shifts"), signed=True),
            ]
        sides = [self.size // 2**i for i in range(len(self.encoder))]
        for part, levels in (("encoder", sides), ("decoder", [4, *reversed(sides)])):
            for r in levels:
                text = f"What the chosen pixel attends to in its window of the {part}'s {r} x {r} map, first block, windows that are not shifted."
                found.append(MapInfo(f"{part}-attention-{r}", f"{part.capitalize()} attention, {r} x {r}", text + head, "query"))
        if self.clusters:
            text = "Euclidean distance of each style code (rows, two per decoder layer) to each centroid (columns)."
            found.append(MapInfo("style-distance", "Distance of styles to centroids", text, "table"))
        return tuple(found)

    def bytes_per_voxel(self) -> int:
        """Peak inference memory per voxel of a slice in float32 (measured: up to 32 numbers per channel), where windows overlap most."""
        return round(4 * 32 * self.last.in_channels / (1 - self.overlap) ** 2)


ARCHITECTURES = MappingProxyType(
    {
        "transmrsr": Architecture(
            name="transmrsr",
            title="TransMRSR",
            paper=PAPER,
            build=TransMRSR,
            dimension=2,
            scales=SCALES,
            tiling="planes",
            halo=lambda _module: None,
            bytes_per_voxel=TransMRSR.bytes_per_voxel,
            global_statistics=True,
            pre_interpolated=True,
            windowed=True,
            maps=TransMRSR.maps,
        )
    }
)
