"""StyleSwin: the generator whose synthesis part is TransMRSR's prior decoder (stage 1 of TransMRSR).

A code z becomes a style w in the mapping network; starting from a learned constant, each layer attends in windows under that style and
doubles the size; every layer adds to the image through its RGB head. TransMRSR keeps the constant and the layers (:class:`StyleSwinDecoder`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from napari_mrsr.errors import InputError
from napari_mrsr.networks.blocks.pointwise import Pointwise
from napari_mrsr.networks.blocks.recording import wanted
from napari_mrsr.networks.blocks.style import (
    AdaIN,
    EqualisedLinear,
    PixelNorm,
    axis_code,
    fir_upsample,
    position_code,
    to_image,
    to_tokens,
)
from napari_mrsr.networks.blocks.swin import RelativeBias, keep_attention_row, perceptron, window_attention

PAPER = "StyleSwin: Transformer-based GAN for high-resolution image generation"
Channels = Mapping[str, int] | Mapping[int, int] | Sequence[int]
"""Widths by resolution: a mapping, or a list from resolution 4 upward."""


def resolutions(size: int) -> tuple[int, ...]:
    """4, 8, ..., `size`.

    Raises
    ------
    InputError
        If `size` is no power of two from 32 on.
    """
    if size < 32 or size & (size - 1):
        raise InputError(f"The image size must be a power of two, at least 32, not {size}.")
    return tuple(2**i for i in range(2, size.bit_length()))


def channel_widths(size: int, multiplier: int = 1, divisor: int = 1, channels: Channels | None = None) -> dict[int, int]:
    """Channels at each resolution from 4 to `size`.

    Parameters
    ----------
    size : int
        Power of two, at least 32.
    multiplier : int
        Factor of the widths from resolution 64 on (StyleSwin: 2 in the discriminator; TransMRSR's generator: 1).
    divisor : int
        All widths are divided by this.
    channels : mapping or sequence of int, optional
        Explicit widths instead, by resolution or from resolution 4 upward.

    Raises
    ------
    InputError
        If widths are missing or no multiples of 4.
    """
    levels = resolutions(size)
    if channels is None:
        widths = {r: (512 if r <= 32 else 16384 * multiplier // r) // divisor for r in levels}
    elif isinstance(channels, Mapping):
        given = {int(r): n for r, n in channels.items()}
        if missing := [r for r in levels if r not in given]:
            raise InputError(f"Channel widths are missing for resolution {missing[0]}: give one for each of {', '.join(map(str, levels))}.")
        widths = {r: given[r] for r in levels}
    elif len(channels) != len(levels):
        raise InputError(f"Size {size} takes {len(levels)} channel widths, for resolutions {', '.join(map(str, levels))}, not {len(channels)}.")
    else:
        widths = dict(zip(levels, channels, strict=True))
    if wrong := [r for r, n in widths.items() if n < 8 or n % 4]:
        raise InputError(f"Channel widths must be multiples of 4 from 8 on; resolution {wrong[0]} has {widths[wrong[0]]}.")
    return widths


def check_heads(widths: Mapping[int, int], heads: Sequence[int] | None = None) -> tuple[int, ...]:
    """Attention heads per layer: one for 32 channels, at least 4, as published, or `heads` after a check.

    Raises
    ------
    InputError
        If a number is odd or does not divide the channels.
    """
    chosen = tuple(max(n // 32, 4) for n in widths.values()) if heads is None else tuple(heads)
    if len(chosen) != len(widths):
        raise InputError(f"The decoder has {len(widths)} layers and needs as many numbers of heads, not {len(chosen)}.")
    for (resolution, width), n in zip(widths.items(), chosen, strict=True):
        if n < 2 or n % 2 or width % n:
            raise InputError(f"{n} heads do not fit the {width} channels at resolution {resolution}: use an even divisor of the channels.")
    return chosen


def check_window(window: int) -> int:
    """`window`.

    Raises
    ------
    InputError
        If it is no power of two from 2 on.
    """
    if window < 2 or window & (window - 1):
        raise InputError(f"The attention window must be a power of two, at least 2, not {window}.")
    return window


class StyleSwinBlock(nn.Module):
    """``x + Attention(AdaIN(x, w))``, then ``x + MLP(AdaIN(x, w))``; half of the heads see regular windows, the other half shifted ones.

    Parameters
    ----------
    resolution, channels, heads : int
    style_dim : int
    window : int
        No larger than the map is used; windows as large as the map are not shifted.
    mlp_ratio : float
    show : (str, int) or None
        Map under which the attention of a chosen pixel in its regular window can be seen, and output pixels per token.
    """

    def __init__(
        self, resolution: int, channels: int, heads: int, style_dim: int, window: int, mlp_ratio: float, show: tuple[str, int] | None = None
    ) -> None:
        super().__init__()
        self.heads, self.show, self.window = heads, show, min(window, resolution)
        self.shift = window // 2 if resolution > window else 0
        self.scale = (channels // heads) ** -0.5
        self.norm1 = AdaIN(channels, style_dim)
        self.qkv = Pointwise(channels, 3 * channels)
        self.biases = nn.ModuleList(RelativeBias(self.window, heads // 2) for _ in range(2))
        self.project = Pointwise(channels, channels)
        self.norm2 = AdaIN(channels, style_dim)
        self.mlp = perceptron(channels, mlp_ratio)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """(B, H, W, C) and (B, style_dim) to (B, H, W, C)."""
        regular, shifted = self.qkv(self.norm1(x, style)).view(*x.shape[:3], 3, self.heads, -1).chunk(2, 4)
        bias, shifted_bias = (b() for b in self.biases)
        if self.show is not None and (recorder := wanted(self.show[0])):
            keep_attention_row(recorder, self.show[0], regular, self.window, bias, self.scale, self.show[1])
        halves = [
            window_attention(regular, self.window, bias, self.scale),
            window_attention(shifted, self.window, shifted_bias, self.scale, self.shift),
        ]
        x = x + self.project(torch.cat(halves, -1))
        y: Tensor = x + self.mlp(self.norm2(x, style))
        return y


class Upsample(nn.Module):
    """Bilinear x2, LayerNorm, linear, plus ``alpha`` times a sinusoidal position code; (B, H, W, C) to (B, 2H, 2W, C').

    Parameters
    ----------
    resolution : int
        H, which the code is made for.
    channels, outputs : int
    """

    code: Tensor

    def __init__(self, resolution: int, channels: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.reduce = Pointwise(channels, outputs, bias=False)
        self.alpha = nn.Parameter(torch.zeros(1))
        self.register_buffer("code", axis_code(2 * resolution, outputs // 2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map of twice the size."""
        y: Tensor = self.reduce(self.norm(to_tokens(F.interpolate(to_image(x), scale_factor=2, mode="bilinear", align_corners=False))))
        return y + self.alpha * position_code(self.code)


class StyleSwinLayer(nn.Module):
    """Two blocks, each under its own style, and the step to the next resolution (`upsample` is None in the last layer)."""

    def __init__(self, blocks: Sequence[StyleSwinBlock], upsample: Upsample | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.upsample = upsample

    def forward(self, x: Tensor, styles: Tensor) -> Tensor:
        """(B, H, W, C) and (B, 2, style_dim) to (B, 2H, 2W, C'), or to (B, H, W, C) in the last layer."""
        for block, style in zip(self.blocks, styles.unbind(1), strict=True):
            x = block(x, style)
        return x if self.upsample is None else self.upsample(x)


class StyleSwinDecoder(nn.Module):
    """Synthesis part of StyleSwin without RGB heads: from a learned 4 x 4 constant to a map of the image's size.

    Parameters
    ----------
    widths : mapping of int to int
        Channels by resolution, 4 to the image's size (:func:`channel_widths`).
    heads : sequence of int
        By layer (:func:`check_heads`).
    style_dim, window, mlp_ratio
        See :class:`StyleSwinBlock`.
    """

    def __init__(self, widths: Mapping[int, int], heads: Sequence[int], style_dim: int, window: int, mlp_ratio: float) -> None:
        super().__init__()
        size, widths_list = max(widths), list(widths.values())
        self.start = nn.Parameter(torch.randn(1, widths_list[0], 4, 4))
        layers = []
        for (resolution, width), n, following in zip(widths.items(), heads, [*widths_list[1:], 0], strict=True):
            shown = [(f"decoder-attention-{resolution}", size // resolution), None]
            blocks = [StyleSwinBlock(resolution, width, n, style_dim, window, mlp_ratio, show) for show in shown]
            layers.append(StyleSwinLayer(blocks, Upsample(resolution, width, following) if following else None))
        self.layers = nn.ModuleList(layers)
        initialise(self)

    def stages(self, styles: Tensor, before: Callable[[int, Tensor], Tensor] | None = None) -> Iterator[Tensor]:
        """Output of each layer in turn, (B, H, W, C), all but the last already at the next resolution.

        Parameters
        ----------
        styles : (B, 2 layers, style_dim) tensor
        before : callable, optional
            ``before(resolution, x)`` changes what enters the layer at that resolution.
        """
        x = to_tokens(self.start).expand(len(styles), -1, -1, -1)
        for layer, pair in zip(self.layers, torch.split(styles, 2, 1), strict=True):
            yield (x := layer(x if before is None else before(x.shape[1], x), pair))

    def forward(self, styles: Tensor, before: Callable[[int, Tensor], Tensor] | None = None) -> Tensor:
        """Output of the last layer, (B, size, size, C); arguments as for :meth:`stages`."""
        for x in self.stages(styles, before):
            out = x
        return out


class RGBHead(nn.Module):
    """Pointwise convolution to three channels (two biases, as published); (B, H, W, C) to (B, 3, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 3, 1)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """What the layer adds to the image."""
        y: Tensor = self.conv(to_image(x)) + self.bias
        return y


class StyleSwinGenerator(nn.Module):
    """Generator of stage 1: 40,628,048 parameters in TransMRSR's configuration.

    Parameters
    ----------
    size : int
        Image side, a power of two from 32 on.
    channel_multiplier, width_divisor, channels
        Widths (:func:`channel_widths`).
    style_dim : int
        Of z and w.
    mapping_layers : int
        Depth of the mapping network.
    mapping_rate : float
        Its learning rate relative to the rest.
    heads : sequence of int, optional
        Attention heads by layer (:func:`check_heads`).
    window : int
        Attention window, a power of two.
    mlp_ratio : float

    Raises
    ------
    InputError
        If sizes, widths and heads do not fit together.
    """

    def __init__(
        self,
        size: int = 256,
        channel_multiplier: int = 1,
        width_divisor: int = 1,
        channels: Channels | None = None,
        style_dim: int = 512,
        mapping_layers: int = 8,
        mapping_rate: float = 0.01,
        heads: Sequence[int] | None = None,
        window: int = 8,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        widths = channel_widths(size, channel_multiplier, width_divisor, channels)
        self.size, self.style_dim = size, style_dim
        layers = [EqualisedLinear(style_dim, style_dim, mapping_rate, activation=True) for _ in range(mapping_layers)]
        self.mapping = nn.Sequential(PixelNorm(), *layers)
        self.decoder = StyleSwinDecoder(widths, check_heads(widths, heads), style_dim, check_window(window), mlp_ratio)
        # A head looks at its layer's output, which has the next layer's width.
        self.heads = nn.ModuleList(RGBHead(n) for n in [*list(widths.values())[1:], widths[size]])
        initialise(self.heads)

    def synthesise(self, styles: Tensor) -> Tensor:
        """Image of one style for all layers, (B, style_dim), or of two per layer, (B, 2 layers, style_dim); (B, 3, size, size)."""
        if styles.ndim == 2:
            styles = styles[:, None].expand(-1, 2 * len(self.heads), -1)
        rgb: Tensor | None = None
        for x, head in zip(self.decoder.stages(styles), self.heads, strict=True):
            new = head(x)
            if rgb is not None:
                # The last layer does not double the size.
                new = new + (rgb if rgb.shape == new.shape else fir_upsample(rgb))
            rgb = new
        assert rgb is not None
        return rgb

    def forward(self, z: Tensor) -> Tensor:
        """Image from a normal random code.

        Parameters
        ----------
        z : (B, style_dim) tensor

        Returns
        -------
        (B, 3, size, size) tensor
            In ImageNet's normalised units.
        """
        return self.synthesise(self.mapping(z))


@torch.no_grad()
def initialise(module: nn.Module) -> None:
    """StyleSwin's start: truncated normal linear layers (0.02), Xavier normal convolutions (gain 0.02), zero biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
        elif isinstance(layer, nn.Conv2d):
            nn.init.xavier_normal_(layer.weight, gain=0.02)
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
