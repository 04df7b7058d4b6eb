"""The product codec as a training-time bottleneck: a fitted pyramid codec in differentiable form.

    x -> centre -> principal axes -> Haar pyramid -> gains / step at a level -> quantise -> back to tokens

Bits are those of the codec's contexts: a coefficient's expected magnitude is M = b0 + sum a F, from the magnitudes of
its known relatives (`nec.codec.prior`), and M says what a symbol costs. b0 and a start as the codec's integers and
train on, with a gain a channel; transforms, tables, thresholds and centroids stay the codec's. Pyramid and relatives
are linear, so their matrices are read off the codec's own functions, whatever these are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nec.codec import EmbeddingCodec, pyramid
from nec.codec.fitting import fit_prior
from nec.codec.prior import DEAD_ZONE, UNIT_BITS, Prior
from nec.codec.tables import TOTAL
from nec.codec.transform import LEVELS_PER_OCTAVE, Rotation, fit_transform, quality_level
from nec.codec.waves import resolutions_of
from nec.errors import InputError
from nec.models.bottleneck import straight_through

Quantization = Literal["noise", "mixed", "straight-through"]
BIT_WORTH = 1 / DEAD_ZONE
"""Bits that a squared error of one squared step is worth, as in the codec's own rounding."""
_REACH = 512  # sizes whose code lengths are tabulated; wider tables code low bits raw


@dataclass(frozen=True)
class Coded:
    """What a bottleneck makes of tokens (n, y, x, d).

    Attributes:
        tokens: (n, y, x, d), dequantised.
        bits: (n,), of each image.
    """

    tokens: Tensor
    bits: Tensor


@dataclass(frozen=True)
class _Wave:
    """Places (tokens,) of a wave's coefficients, its class, and its features of what is known: (4 * tokens, known).

    Attributes:
        level: counts the resolutions, each of which has its own live channels in a frame.
    """

    places: Tensor
    kind: int
    level: int
    features: Tensor | None


class CodecBottleneck(nn.Module):
    """Differentiable form of a fitted `EmbeddingCodec` with a Haar pyramid, for every level at once.

    Quantisation while training (`quantization`); in evaluation mode it is the codec's rounding, by cost.

    - "straight-through": the codec's rounding with the gradient of the identity, in both terms;
    - "noise": additive uniform noise in both terms, rated by the mass of its unit cell under a density whose cells have
      the mass of a geometric law (contexts see the rounded relatives);
    - "mixed": that rate of noisy values, straight-through rounding for the tokens.

    In evaluation mode the batch is taken for a frame: channels behind a resolution's last live one cost nothing.

    Raises `InputError` for a codec without a pyramid.
    """

    mean: Tensor
    places: Tensor | None
    forward_basis: Tensor
    back_basis: Tensor
    octave_gains: Tensor
    thresholds: Tensor
    centroids: Tensor
    lengths: Tensor

    def __init__(self, codec: EmbeddingCodec) -> None:
        super().__init__()
        transform, prior = codec.parts
        if transform.gains is None or transform.basis is None:
            raise InputError("only a codec with a pyramid and principal axes has a differentiable form: spatial='haar'")
        self.quantization: Quantization = "straight-through"
        self.prior, self.step = prior, transform.step
        parameters = prior.parameters
        self.first_level, self.spacing = parameters.first_level, parameters.spacing
        basis = transform.basis.astype(np.float64)
        self._constant("mean", transform.mean)
        self._constant("places", transform.positions)
        self._constant("forward_basis", np.linalg.pinv(basis))
        self._constant("back_basis", basis)
        self._constant("octave_gains", transform.gains)
        self._constant("thresholds", prior.thresholds)
        self._constant("centroids", prior.centroids / 256)
        self._constant("lengths", _code_lengths(prior))
        eighths = torch.from_numpy(parameters.base.astype(np.float32))
        self.base = nn.Parameter(eighths / LEVELS_PER_OCTAVE)
        """log2 of b0, less the level's octaves, in units of 2^-14: (anchors, classes, k)."""
        self.slopes = nn.Parameter(torch.from_numpy(parameters.weights.astype(np.float32) / 256))
        """a1 to a4 (4, anchors, classes, k)."""
        self.channel_gains = nn.Parameter(torch.zeros(codec.rank))
        """log2 of what a channel's step is divided by (k,)."""
        self.typical: Tensor
        self.register_buffer("typical", torch.ones(len(self.base)))

    def _constant(self, name: str, values: NDArray[np.floating] | None) -> None:
        tensor = None if values is None else torch.from_numpy(np.ascontiguousarray(values, np.float32))
        self.register_buffer(name, tensor)

    # ---- transforms

    def coefficients(self, tokens: Tensor, own_gains: bool = True) -> Tensor:
        """Tokens (n, y, x, d) -> coefficients in place (n, y * x, k), in steps of level 0.

        `own_gains` False: without the trained gains a channel, in the codec's own metric.
        """
        rows, columns = tokens.shape[1:3]
        turned = ((tokens.float() - self.means(rows, columns)) @ self.forward_basis).flatten(1, 2)
        scale = self._scale(rows, columns, own_gains)
        return (_pyramid_matrix(rows, columns, False).to(turned) @ turned) * scale

    def tokens_of(self, coefficients: Tensor, rows: int, columns: int) -> Tensor:
        """Inverse of `coefficients`: (n, y, x, d)."""
        flat = coefficients / self._scale(rows, columns, True)
        flat = _pyramid_matrix(rows, columns, True).to(flat) @ flat
        return flat.unflatten(1, (rows, columns)) @ self.back_basis + self.means(rows, columns)

    def _scale(self, rows: int, columns: int, own_gains: bool) -> Tensor:
        octaves = torch.from_numpy(pyramid.octaves(rows, columns)).flatten().to(self.mean.device)
        gains = self.octave_gains[octaves.clamp(max=len(self.octave_gains) - 1)][:, None] / self.step
        return gains * torch.exp2(self.channel_gains) if own_gains else gains

    def means(self, rows: int, columns: int) -> Tensor:
        """What the codec takes off every image's tokens: (d,), or (rows, columns, d) with means by position."""
        if self.places is None:
            return self.mean
        repeats = [-(-size // period) for size, period in zip((rows, columns), self.places.shape, strict=False)]
        return self.mean + self.places.repeat(*repeats, 1)[:rows, :columns]

    # ---- coding

    def noise_shape(self, rows: int, columns: int) -> tuple[int, int]:
        """Shape of one image's noise: what `forward` takes, without the batch axis."""
        return rows * columns, self.channel_gains.shape[0]

    def forward(self, tokens: Tensor, levels: Tensor, noise: Tensor | None = None) -> Coded:
        """Code tokens (n, y, x, d), each image at its level (n,), a real number (quality q is level 8 log2 q).

        `noise`: uniform in -0.5..0.5, (n, y * x, k), used while training unless `quantization` is straight-through;
        drawn here if None.
        """
        rows, columns = tokens.shape[1:3]
        zoom = torch.exp2(levels.float() / LEVELS_PER_OCTAVE)[:, None, None]
        exact = self.coefficients(tokens) * zoom
        noisy = exact
        if self.training and self.quantization != "straight-through":
            noisy = exact + (torch.rand_like(exact) - 0.5 if noise is None else noise)
        base, slopes = self._parameters_at(levels)
        order, waves = _waves(rows, columns)
        known: list[Tensor] = []
        decoded = list[Tensor]()
        bits = exact.new_zeros(1 + waves[-1].level, len(tokens), exact.shape[2])
        for wave in waves:
            places = wave.places.to(exact.device)
            magnitude = base[:, wave.kind, None] + self._expected(wave, known, slopes)
            value = exact[:, places]
            symbols, inside = self._round(value, magnitude)
            rounded = straight_through(value, symbols)
            if self.training and self.quantization != "straight-through":
                cost = cell_lengths(noisy[:, places], magnitude)
            else:
                cost = self.table_lengths(rounded.abs(), magnitude)
            bits[wave.level] += cost.sum(1)
            known.append(rounded.abs())
            decoded.append(straight_through(value, symbols + inside))
        passed = torch.cat(decoded, 1)[:, order.to(exact.device)]
        if self.training and self.quantization == "noise":
            passed = noisy
        if not self.training:
            bits = bits * _live_channels(known, waves)[:, None]
        return Coded(self.tokens_of(passed / zoom, rows, columns), bits.sum((0, 2)))

    def _parameters_at(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """b0 in symbols (n, classes, k) and slopes (4, n, classes, k), interpolated between the anchors."""
        place = ((levels.float() - self.first_level) / self.spacing).clamp(0, len(self.base) - 1)
        low = place.floor().long().clamp(max=max(len(self.base) - 2, 0))
        high = (low + 1).clamp(max=len(self.base) - 1)
        part = (place - low)[:, None, None]
        base = torch.lerp(self.base[low], self.base[high], part)
        slopes = torch.lerp(self.slopes[:, low], self.slopes[:, high], part)
        octaves = levels.float()[:, None, None] / LEVELS_PER_OCTAVE
        return torch.exp2(base + octaves - UNIT_BITS), slopes.clamp(min=0)

    def _expected(self, wave: _Wave, known: list[Tensor], slopes: Tensor) -> Tensor | float:
        """Sum of slopes times features, (n, tokens, k)."""
        if wave.features is None:
            return 0.0
        features = wave.features.to(slopes) @ torch.cat(known, 1)
        features = features.unflatten(1, (len(slopes), -1))
        return (features * slopes[:, :, wave.kind].transpose(0, 1)[:, :, None]).sum(1)

    @torch.no_grad()
    def _round(self, value: Tensor, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        """Symbols as the codec's encoder rounds them, and where within their cells they decode to."""
        table = self._position(magnitude).floor().clamp(0, len(self.thresholds) - 1).long().expand(value.shape)
        size = (value.abs() + 1 - self.thresholds[table]).floor()
        symbols = size * value.sign()
        return symbols, self.centroids[table, symbols.clamp(-2, 2).long() + 2]

    def _position(self, magnitude: Tensor) -> Tensor:
        """Scale index of expected magnitudes as `nec.codec.prior.scale_index` counts, with its fraction."""
        exponent = torch.frexp(magnitude.detach())[1]
        fraction = 2 * magnitude * torch.exp2(-exponent.float())  # 1..2, and it carries the gradient
        return 4 * (exponent + fraction - 2 + UNIT_BITS) - self.prior.scales.low

    def table_lengths(self, sizes: Tensor, magnitude: Tensor) -> Tensor:
        """Bits of symbols of these sizes under the codec's tables.

        In training linear between the scales as well as the sizes, so that there are gradients to both.
        """
        last = len(self.lengths) - 1
        place = self._position(magnitude)
        raw = ((place.detach().floor() - last) / 4).ceil().clamp(min=0)
        # A table serves its scale's whole interval, and stands for its middle where tables are blended.
        place = (place - 4 * raw - 0.5 if self.training else (place - 4 * raw).floor()).clamp(0, last)
        sizes = sizes * torch.exp2(-raw)
        row = place.detach().floor().clamp(max=last - 1).long()
        column = sizes.detach().floor().clamp(max=_REACH - 2).long()
        across, along = place - row, sizes - column
        flat, at = self.lengths.flatten(), row * _REACH + column
        low = torch.lerp(flat[at], flat[at + 1], along)
        high = torch.lerp(flat[at + _REACH], flat[at + _REACH + 1], along)
        return torch.lerp(low, high, across) + raw

    # ---- what it is trained for

    @torch.no_grad()
    def calibrate(self, tokens: Tensor) -> None:
        """Note what images take at each anchor level, by a sample of tokens (n, y, x, d): see `typical_bits`."""
        training = self.training
        self.eval()
        anchors = self.first_level + self.spacing * torch.arange(len(self.typical))
        for index, level in enumerate(anchors.tolist()):
            bits = self(tokens, torch.full((len(tokens),), float(level))).bits.mean()
            self.typical[index] = bits.clamp(min=1.0)
        self.train(training)

    def typical_bits(self, levels: Tensor) -> Tensor:
        """Bits (n,) of an image at these levels before training: losses are taken relative to them.

        Else the finest levels, whose bits and distortions weigh a hundred times more, would decide alone.
        """
        place = ((levels.float() - self.first_level) / self.spacing).clamp(0, len(self.typical) - 1)
        low = place.floor().long().clamp(max=max(len(self.typical) - 2, 0))
        octaves = self.typical.log2()
        return torch.exp2(torch.lerp(octaves[low], octaves[(low + 1).clamp(max=len(octaves) - 1)], place - low))

    def level_weight(self, levels: Tensor) -> Tensor:
        """(n,): the weight of a distortion grows as 1 / step^2, 1 at level 0."""
        return torch.exp2(2 * levels.float() / LEVELS_PER_OCTAVE)

    def distance(self, tokens: Tensor, target: Tensor) -> Tensor:
        """Squared distance (n,) of tokens (n, y, x, d), in squared steps of level 0, in the codec's own metric.

        The pyramid's gains weigh it: coarse coefficients, which serve the tasks most, count most.
        """
        return (self.coefficients(tokens, False) - self.coefficients(target, False)).square().sum((1, 2))

    def refit(self, tokens: NDArray[np.floating], seed: int = 0) -> EmbeddingCodec:
        """A codec for tokens (n, y, x, d) of the trained model: this metric, everything else fitted anew.

        The trained gains go into the basis. In the space they make, where one step serves all channels, the principal
        axes are taken again, since training moved them; then contexts and tables are fitted. Levels keep their steps.
        """
        fresh = fit_transform(tokens, None, True, self.step, None)
        metric = (self.forward_basis * torch.exp2(self.channel_gains)).detach().double().cpu().numpy()
        centred = fresh.centred(tokens).reshape(-1, tokens.shape[3]) @ metric
        axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1]
        basis = np.linalg.pinv(metric @ axes).astype(np.float16)
        transform = replace(fresh, axes=Rotation(basis), gains=self.octave_gains.cpu().numpy())
        return EmbeddingCodec(transform, fit_prior(tokens, transform, True, seed))


def draw_levels(uniform: Tensor, qualities: tuple[float, float]) -> Tensor:
    """Levels for numbers in 0..1: even between those of two qualities."""
    low, high = (float(quality_level(quality)) for quality in qualities)
    return low + uniform * (high - low)


def cell_lengths(values: Tensor, magnitude: Tensor) -> Tensor:
    """Bits of real values: minus log2 of the mass of the unit cell around them.

    The density is exponential on either side of zero, twice as steep within half a step of it, so that the cells of
    integers have the mass of the geometric law of mean M, `magnitude`: r^|k| (1 - r), halved for k and -k, with
    r = M / (1 + M).
    """
    steepness = torch.log1p(1 / magnitude)
    distance = values.abs()

    def beyond(x: Tensor) -> Tensor:
        """Mass above x >= 0."""
        return 0.5 * torch.exp(-steepness * torch.where(x < 0.5, 2 * x, x + 0.5))

    near, far = distance - 0.5, distance + 0.5
    inside = torch.where(near > 0, beyond(near.clamp(min=0)), 1 - beyond((-near).clamp(min=0))) - beyond(far)
    # Where both tails vanish in single precision, the leading term alone is left.
    tail = steepness * distance / np.log(2) + 1 - torch.log2(-torch.expm1(-steepness))
    exact = -torch.log2(inside.clamp(min=1e-30))
    return torch.where(inside > 1e-25, exact, tail)


def _code_lengths(prior: Prior) -> NDArray[np.float32]:
    """Bits of symbols of size 0, 1, ... (sign included) by table: (tables, `_REACH`)."""
    lengths = np.empty((len(prior.bank), _REACH))
    for index, radius in enumerate(prior.bank.radii.tolist()):
        costs = np.log2(TOTAL) - np.log2(prior.bank.table(index))
        kept = min(radius + 1, _REACH)
        lengths[index, :kept] = (costs[radius::-1][:kept] + costs[radius : 2 * radius + 1][:kept]) / 2
        code = 2.0 * np.arange(_REACH - kept) + 1  # Exp-Golomb codes of the escaped excess
        lengths[index, kept:] = costs[-1] + 2 * np.floor(np.log2(code + 1)) + 1
    return lengths.astype(np.float32)


def _live_channels(sizes: list[Tensor], waves: list[_Wave]) -> Tensor:
    """1 up to each level's last channel with a symbol, 0 behind it: (levels, k), of the waves' sizes (n, tokens, k)."""
    used = sizes[0].new_zeros(1 + waves[-1].level, sizes[0].shape[2])
    for wave, size in zip(waves, sizes, strict=True):
        used[wave.level] += size.sum((0, 1))
    return (used.flip(1).cumsum(1).flip(1) > 0).to(used.dtype)


@lru_cache(maxsize=16)
def _pyramid_matrix(rows: int, columns: int, back: bool) -> Tensor:
    """(y * x, y * x): the pyramid over a grid, or its inverse."""
    unit = np.eye(rows * columns).reshape(rows * columns, rows, columns, 1)
    images = (pyramid.inverse if back else pyramid.forward)(unit)
    return torch.from_numpy(images.reshape(rows * columns, -1).T.astype(np.float32))


@lru_cache(maxsize=16)
def _waves(rows: int, columns: int) -> tuple[Tensor, list[_Wave]]:
    """Where coding order puts each place of a grid (y * x,), and the waves in that order."""
    unit = np.eye(rows * columns).reshape(rows, columns, rows * columns, 1)
    grid = np.arange(rows * columns).reshape(rows, columns)
    order, waves = list[int](), list[_Wave]()
    levels = resolutions_of(rows, columns, order=pyramid.ORDER)
    for level, wave in ((level, wave) for level, group in enumerate(levels) for wave in group):
        places = grid[wave.row :: wave.step, wave.column :: wave.step].flatten()
        features = None
        if wave.kind != "root":
            sums = np.stack(pyramid.Relatives(wave, rows, columns).features(unit)) / 64
            features = torch.from_numpy(sums.reshape(-1, rows * columns)[:, order].astype(np.float32))
        waves.append(_Wave(torch.from_numpy(places), wave.parameter_class, level, features))
        order += places.tolist()
    return torch.from_numpy(np.argsort(order)), waves
