"""Bytes of a hyperprior model's tokens: a research baseline whose decoder runs a network. See docs/format.md.

The scales under which tokens are coded come out of floating-point arithmetic, and a decoder that computes others reads
noise. So these networks run in double precision, every table is of integers, and the stream carries checksums of the
tables and of the scale indices: a machine that computes others says so.
"""

from __future__ import annotations

import copy
import math
import struct
from collections.abc import Iterator
from functools import cache, cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from nec.codec.frame import MAX_VALUES, crc32c
from nec.codec.tables import Bank, Reader, Writer, integer_table
from nec.errors import CorruptError, InputError
from nec.models.bottleneck import SCALE_FLOOR, FactorizedBottleneck, HyperpriorBottleneck
from nec.models.mae import NecModel

MAGIC = b"\x9aH"
VERSION = 1
MAX_TOKENS = 1 << 16
"""Most tokens of an image: the networks' attention is over all of them."""
_HEADER = struct.Struct("<2sBxIIIIHH")  # magic, version, CRC, CRCs of tables and scale indices, n, y, x
_CRC = slice(4, 8)
_LARGEST = 1 << 24  # symbols stay below, where float32 holds every integer
_IMAGES = 16  # that go through the networks at a time; part of the format, since sums may depend on it
_HYPER_RADIUS = 400  # tables of the hyper-latent end here, or before

Ints = NDArray[np.int64]

#: The 64 standard deviations that the Gaussian tables are made for, in quantiser steps (CompressAI's).
SCALES = np.exp(np.linspace(math.log(SCALE_FLOOR), math.log(256.0), 64))


class HyperpriorStream:
    """Coder of the token grids of a model of kind "hyperprior", CLS left out.

    Args:
        model: the adapted model; its bottleneck is copied to the CPU, in double precision.

    Raises:
        InputError: a model without a hyperprior.
    """

    def __init__(self, model: NecModel) -> None:
        if not isinstance(model.bottleneck, HyperpriorBottleneck):
            raise InputError(f"model {model.name!r} is of kind {model.config.kind!r}: its tokens need another coder")
        self.dimensions = model.config.embed_dim
        self._prior = copy.deepcopy(model.bottleneck).cpu().double().eval().requires_grad_(False)
        self._medians = self._prior.entropy_bottleneck.medians().numpy()

    @property
    def nbytes(self) -> int:
        """Side information: what a decoder needs of the model, its parameters as float32."""
        parts = (self._prior.h_s, self._prior.entropy_bottleneck)
        return sum(4 * parameter.numel() for part in parts for parameter in part.parameters())

    def encode(self, tokens: NDArray[np.floating]) -> bytes:
        """Token grids (n, y, x, d) -> one stream; the tokens are rounded to integers.

        Raises:
            InputError: another shape, not finite, beyond 2^24, or too many for one stream.
        """
        n, y, x = self._check_shape(tokens)
        symbols = np.rint(tokens).astype(np.float64).reshape(n, y * x, self.dimensions)
        if not (np.abs(symbols) < _LARGEST).all():
            raise InputError("tokens hold NaN, infinities or values beyond 2^24: they cannot be coded")
        hyper = self._hyper_symbols(np.asarray(tokens, np.float64).reshape(symbols.shape))
        if not (np.abs(hyper) < _LARGEST).all():
            raise InputError("the hyper-latent has values beyond 2^24: the model is not fit for coding")
        indices = self._scale_indices(hyper)
        writer = Writer()  # a stack: pushed first is read last
        writer.push_block(gaussian_bank(), indices, symbols.astype(np.int64))
        writer.push_block(self._hyper_bank, self._channels(hyper.shape), hyper)
        body = writer.finish().astype("<u4").tobytes()
        head = _HEADER.pack(MAGIC, VERSION, 0, self._tables_crc, _crc_of(indices), n, y, x)
        crc = crc32c(head[: _CRC.start] + head[_CRC.stop :] + body)
        return head[: _CRC.start] + struct.pack("<I", crc) + head[_CRC.stop :] + body

    def decode(self, blob: bytes) -> NDArray[np.float32]:
        """One stream -> the rounded tokens (n, y, x, d) float32.

        Raises:
            CorruptError: damaged, truncated or foreign bytes, another model's stream, or scales that this machine
                computes otherwise than the encoder did; nothing is returned then.
        """
        (n, y, x), of_indices, words = self._open(blob)
        reader = Reader(words)
        hyper = reader.pull_block(self._hyper_bank, self._channels((n, y * x, len(self._medians)))).astype(np.int64)
        indices = self._scale_indices(hyper)
        if _crc_of(indices) != of_indices:
            raise CorruptError(
                "the scales that this machine computes for the stream are not the encoder's: its arithmetic disagrees, "
                "or the model's weights are not those that wrote it. Decode it on a machine like the encoder's"
            )
        symbols = reader.pull_block(gaussian_bank(), indices)
        reader.check_finished()
        if symbols.size and np.abs(symbols).max() >= _LARGEST:
            raise CorruptError("hyperprior stream is damaged: it holds a symbol beyond 2^24")
        return symbols.astype(np.float32).reshape(n, y, x, self.dimensions)

    # -- the frame ------------------------------------------------------------------------------------------------

    def _open(self, blob: bytes) -> tuple[tuple[int, int, int], int, NDArray[np.uint32]]:
        """Extent, checksum of the scale indices, and code of a stream, all checked before memory is taken for it."""
        if len(blob) < _HEADER.size:
            raise CorruptError(f"not a hyperprior stream: {len(blob)} bytes, its header alone takes {_HEADER.size}")
        magic, version, crc, of_tables, of_indices, n, y, x = _HEADER.unpack_from(blob)
        if magic != MAGIC:
            raise CorruptError(f"not a hyperprior stream: it starts with {magic!r}, not {MAGIC!r}")
        if crc32c(blob[: _CRC.start] + blob[_CRC.stop :]) != crc or len(blob) % 4:
            raise CorruptError(f"checksum mismatch in a hyperprior stream of {len(blob)} bytes: damaged or truncated")
        if version != VERSION or blob[3]:
            raise CorruptError(f"hyperprior stream of version {version}; this nec reads {VERSION}: upgrade nec")
        if of_tables != self._tables_crc:
            raise CorruptError(
                "the stream was coded with other tables than this model's here: another model wrote it, or this "
                "machine's arithmetic disagrees with the encoder's"
            )
        if not y or not x or y * x > MAX_TOKENS or n * y * x * self.dimensions > MAX_VALUES:
            raise CorruptError(f"hyperprior stream declares {n} images of {y}x{x} tokens: beyond the limit")
        return (n, y, x), of_indices, np.frombuffer(blob, "<u4", offset=_HEADER.size).astype(np.uint32)

    def _check_shape(self, tokens: NDArray[np.floating]) -> tuple[int, int, int]:
        if tokens.ndim != 4 or tokens.shape[3] != self.dimensions or 0 in tokens.shape[1:]:
            raise InputError(f"tokens have shape {tokens.shape}; this model's are (n, y, x, {self.dimensions})")
        n, y, x, _ = tokens.shape
        if y * x > MAX_TOKENS or max(y, x) >= 1 << 16 or tokens.size > MAX_VALUES:
            raise InputError(f"batch of {n} images of {y}x{x} tokens is too large for one stream: encode it in parts")
        return n, y, x

    # -- the networks ---------------------------------------------------------------------------------------------

    def _hyper_symbols(self, tokens: NDArray[np.float64]) -> Ints:
        """(n, t, d) -> what is coded of the hyper-latent, (n, t, channels): steps from the prior's medians."""
        symbols = np.zeros((*tokens.shape[:2], len(self._medians)), np.int64)
        for part in _parts(len(tokens)):
            with torch.inference_mode():
                z = self._prior.hyper_latent(torch.from_numpy(tokens[part]))
            symbols[part] = np.rint(z.numpy() - self._medians)
        return symbols

    def _scale_indices(self, hyper: Ints) -> NDArray[np.uint8]:
        """(n, t, channels) -> (n, t, d): the first of `SCALES` that is not below the scale computed."""
        indices = np.zeros((*hyper.shape[:2], self.dimensions), np.uint8)
        for part in _parts(len(hyper)):
            with torch.inference_mode():
                scales = self._prior.scales(torch.from_numpy(hyper[part] + self._medians))
            indices[part] = np.searchsorted(SCALES[:-1], scales.numpy())
        return indices

    # -- tables ---------------------------------------------------------------------------------------------------

    @cached_property
    def _hyper_bank(self) -> Bank:
        """One table a channel of the hyper-latent, of its factorised prior around the median."""
        return _bank(hyper_probabilities(self._prior.entropy_bottleneck))

    @cached_property
    def _tables_crc(self) -> int:
        banks = (self._hyper_bank, gaussian_bank())
        return crc32c(b"".join(a.astype("<i4").tobytes() for bank in banks for a in (bank.radii, bank.frequencies)))

    def _channels(self, shape: tuple[int, ...]) -> NDArray[np.intp]:
        """Table of each value of a hyper-latent (n, t, channels)."""
        return np.broadcast_to(np.arange(shape[-1]), shape)


@cache
def gaussian_bank() -> Bank:
    """Tables of zero-mean Gaussians rounded to integers, one for each of `SCALES`."""
    return _bank([_gaussian(float(scale)) for scale in SCALES])


def _gaussian(scale: float) -> NDArray[np.float64]:
    """Probabilities of -m..m under a Gaussian rounded to integers; m is five deviations, where little is left."""
    reach = math.ceil(5 * scale) + 1
    edges = [math.erfc(-(k - 0.5) / scale * math.sqrt(0.5)) / 2 for k in range(-reach, 1)]
    lower = np.diff([*edges, 0.5 * math.erfc(-0.5 / scale * math.sqrt(0.5))])  # of -m..0, in the accurate tail
    return np.concatenate([lower, lower[-2::-1]])


def hyper_probabilities(prior: FactorizedBottleneck) -> NDArray[np.float64]:
    """Probabilities (channels, 801) of -400..400 steps from the median under each channel's density, in double."""
    steps = torch.arange(-_HYPER_RADIUS, _HYPER_RADIUS + 1, dtype=torch.float64)
    with torch.inference_mode():
        places = prior.medians()[:, None, None] + steps
        lower, upper = prior.logits(places - 0.5), prior.logits(places + 0.5)
        sign = -torch.sign(lower + upper)
        return (torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower)).abs()[:, 0].numpy()


def _bank(probabilities: list[NDArray[np.float64]] | NDArray[np.float64]) -> Bank:
    tables = [integer_table(table) for table in probabilities]
    return Bank(np.array([(len(table) - 2) // 2 for table in tables]), np.concatenate(tables))


def _parts(images: int) -> Iterator[slice]:
    return (slice(first, first + _IMAGES) for first in range(0, images, _IMAGES))


def _crc_of(indices: NDArray[np.uint8]) -> int:
    return crc32c(indices.tobytes())
