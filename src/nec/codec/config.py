"""A codec as JSON: what format.md, section 6, says, and the checks that make reading it back safe."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import sys
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.codec.prior import MAX_CENTROID, Parameters, Prior, Scales, parameter_classes, weight_names
from nec.codec.tables import Bank
from nec.codec.transform import Rotation, Selection, Transform
from nec.errors import InputError, shown

FORMAT = "nec.embedding-codec"
VERSIONS = (1, 2)
"""Of tokens, and of a pyramid."""
MAX_BYTES = 1 << 26
"""Largest size of one array."""
MAX_ENTRIES = 1 << 22
"""Largest number of entries of all frequency tables."""
_MAX_GAINS = 16
_PARTS = {
    "basis": ("basis",),
    "mean": ("mean", "order", "positions"),
    "contexts": ("base", "weights"),
    "tables": ("radii", "frequencies", "offset_of", "centroids"),
}


def to_config(transform: Transform, prior: Prior) -> dict[str, Any]:
    """Self-contained JSON-able form of a codec."""
    scales = prior.scales
    return {
        "format": FORMAT,
        "version": 2 if prior.spatial else 1,
        "id": identity(transform, prior),
        "prior": _prior_name(prior),
        "dimensions": transform.dimensions,
        "rank": transform.rank,
        "step": transform.step,
        "first_level": prior.parameters.first_level,
        "spacing": prior.parameters.spacing,
        "scale_low": scales.low,
        "scale_split": scales.split,
        "scale_wide": scales.wide,
        **{name: pack_array(np.asarray(array, dtype)) for name, (array, dtype) in _arrays(transform, prior).items()},
    }


def from_config(config: Any) -> tuple[Transform, Prior]:
    """Inverse of `to_config`. Raises `InputError` that names the field which is missing, malformed or altered."""
    if not isinstance(config, Mapping) or config.get("format") != FORMAT:
        raise InputError(f'not a codec: its config must be an object with "format": "{FORMAT}"')
    if config.get("version") not in VERSIONS:
        raise InputError(f"codec version {shown(config.get('version'))} is not known to this nec: upgrade nec")
    if config.get("prior") not in ("hierarchical", "factorized"):
        raise InputError(
            f"codec config: prior must be 'hierarchical' or 'factorized', not {shown(config.get('prior'))}"
        )
    transform = _read_transform(config)
    prior = _read_prior(config, transform)
    found = identity(transform, prior)
    if config.get("id") != found:
        raise InputError(
            f"codec config: its content has id {found}, not {shown(config.get('id'))}: it was altered or damaged"
        )
    return transform, prior


def identity(transform: Transform, prior: Prior) -> str:
    """16 hex digits of the SHA-256 over all that decides bytes and values."""
    header = [FORMAT, 2 if prior.spatial else 1, _prior_name(prior), transform.step.hex()]
    header += [prior.parameters.first_level, prior.parameters.spacing]
    header += [prior.scales.low, prior.scales.split, prior.scales.wide]
    digest = hashlib.sha256(json.dumps(header).encode())
    for name, (array, dtype) in _arrays(transform, prior).items():
        digest.update(f"{name}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array, dtype).tobytes())
    return digest.hexdigest()[:16]


def parse(text: str | bytes) -> Any:
    """JSON of unknown origin; `InputError` where it is malformed, nested too deeply or has numbers without end."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise InputError("JSON is nested too deeply") from error
    except ValueError as error:  # of bytes that are not UTF-8 and of numbers of thousands of digits too
        raise InputError(f"JSON is malformed: {error}") from error


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Bytes of a codec's JSON by part: basis, mean, contexts, tables, other."""
    found = {
        part: sum(len(json.dumps(config[name])) for name in names if name in config) for part, names in _PARTS.items()
    }
    return {**found, "other": len(json.dumps(config)) - sum(found.values())}


def check_gains(gains: Sequence[float] | NDArray[Any]) -> NDArray[np.float32]:
    """A pyramid's gains as float32; `InputError` if there are none, too many, or some are not positive."""
    with np.errstate(over="ignore"):
        found = np.asarray(gains, np.float32)
    if found.ndim != 1 or not 1 <= len(found) <= _MAX_GAINS or not np.isfinite(found).all() or found.min() <= 0:
        raise InputError(f"gains must be 1 to {_MAX_GAINS} positive numbers, fine octaves first, not {gains!r}")
    return found


# ---- arrays


def pack_array(array: NDArray[Any]) -> dict[str, Any]:
    """{"dtype", "shape", "data"}: little-endian C order, all first bytes, then all second ones...; zlib; base64."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    planes = little.reshape(-1).view(np.uint8).reshape(-1, little.dtype.itemsize).T
    data = base64.b64encode(zlib.compress(planes.tobytes(), 9)).decode("ascii")
    return {"dtype": little.dtype.str.replace("|", "<"), "shape": list(array.shape), "data": data}


def unpack_array(packed: Any, where: str, dtype: str, ndim: int) -> NDArray[Any]:
    """Inverse of `pack_array` for an array of known dtype and rank. Raises `InputError` that names `where`."""
    kind = np.dtype(dtype)
    try:
        shape = tuple(packed["shape"])
        whole_numbers = all(isinstance(size, int) and 0 <= size <= MAX_BYTES for size in shape)
        if packed["dtype"] != dtype or len(shape) != ndim or not whole_numbers:
            found = f"{shown(packed['dtype'])} {shown(shape)}"
            raise InputError(f"codec config: {where} must be {dtype} with {ndim} axes, not {found}")
        size = math.prod(shape) * kind.itemsize
        if size > MAX_BYTES:
            raise InputError(f"codec config: {where} declares {size} bytes, more than the limit of {MAX_BYTES}")
        inflater = zlib.decompressobj()
        raw = inflater.decompress(base64.b64decode(packed["data"], validate=True), size + 1)
    except (KeyError, TypeError, ValueError, zlib.error, binascii.Error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"codec config: {where} is missing or damaged ({type(error).__name__}: {error})") from error
    if len(raw) != size:
        raise InputError(f"codec config: {where} holds {len(raw)} bytes where its shape needs {size}")
    planes = np.frombuffer(raw, np.uint8).reshape(kind.itemsize, -1)
    array = np.ascontiguousarray(planes.T).view(kind).reshape(shape)
    return array.astype(kind.newbyteorder("="), copy=False)


def whole(config: Mapping[str, Any], key: str, low: int, high: int) -> int:
    """An integer field, checked."""
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InputError(f"codec config: {key} must be an integer from {low} to {high}, not {shown(value)}")
    return value


# ---- a codec's fields


def _prior_name(prior: Prior) -> str:
    return "hierarchical" if prior.hierarchical else "factorized"


def _arrays(transform: Transform, prior: Prior) -> dict[str, tuple[NDArray[Any], str]]:
    """What a codec holds, in the order of its identity, and how it is stored."""
    arrays: dict[str, tuple[NDArray[Any], str]] = {"mean": (transform.mean, "<f4")}
    if transform.positions is not None:
        arrays["positions"] = (transform.positions, "<f2")
    if transform.gains is not None:
        arrays["gains"] = (transform.gains, "<f4")
    if isinstance(transform.axes, Rotation):
        arrays["basis"] = (transform.axes.basis, "<f2")
    else:
        arrays["order"] = (transform.axes.order, "<u2")
    arrays["base"] = (prior.parameters.base, "<i2")
    arrays["weights"] = (prior.parameters.weights, "<i2")
    arrays["offset_of"] = (prior.scales.offset_of, "<u1")
    arrays["radii"] = (prior.bank.radii, "<u2")
    arrays["frequencies"] = (prior.bank.frequencies, "<u2")
    arrays["centroids"] = (prior.centroids, "<i1")
    return arrays


def _read_transform(config: Mapping[str, Any]) -> Transform:
    dimensions = whole(config, "dimensions", 1, 1 << 16)
    rank = whole(config, "rank", 1, dimensions)
    step = config.get("step")
    if not isinstance(step, float | int) or not 0 < step <= sys.float_info.max:
        raise InputError(f"codec config: step must be a positive number, not {shown(step)}")
    mean = unpack_array(config.get("mean"), "mean", "<f4", 1)
    positions = None
    if "positions" in config:
        positions = unpack_array(config["positions"], "positions", "<f2", 3)
        if positions.shape[2] != dimensions or 0 in positions.shape or not np.isfinite(positions).all():
            raise InputError(
                f"codec config: positions {positions.shape} do not fit {dimensions} dimensions, or hold NaN"
            )
    axes: Rotation | Selection
    if "basis" in config:
        basis = unpack_array(config["basis"], "basis", "<f2", 2)
        axes, fits = Rotation(basis), basis.shape == (rank, dimensions) and bool(np.isfinite(basis).all())
    else:
        order = unpack_array(config.get("order"), "order", "<u2", 1).astype(np.int64)
        axes, fits = Selection(order, dimensions), order.shape == (rank,) and order.max() < dimensions
        fits = fits and len(np.unique(order)) == rank
    if mean.shape != (dimensions,) or not fits or not np.isfinite(mean).all():
        raise InputError(
            f"codec config: mean and basis (or order) do not fit {dimensions} dimensions and rank {rank}, or hold NaN"
        )
    gains = None
    if config["version"] == 2:
        if config["prior"] != "hierarchical":
            raise InputError("codec config: a pyramid needs the hierarchical prior")
        gains = check_gains(unpack_array(config.get("gains"), "gains", "<f4", 1))
    return Transform(mean, float(step), axes, positions, gains)


def _read_prior(config: Mapping[str, Any], transform: Transform) -> Prior:
    rank, spatial = transform.rank, transform.gains is not None
    base = unpack_array(config.get("base"), "base", "<i2", 3)
    weights = unpack_array(config.get("weights"), "weights", "<i2", 4)
    hierarchical = config["prior"] == "hierarchical"
    classes = parameter_classes(hierarchical)
    anchors = base.shape[0]
    names = weight_names(spatial)
    if base.shape != (anchors, classes, rank) or weights.shape != (len(names), *base.shape) or anchors < 1:
        raise InputError(
            f"codec config: base {base.shape} and weights {weights.shape} do not fit {classes} classes of {rank}"
        )
    signed = np.array([name in ("wn", "wf") for name in names])[:, None, None, None]
    if np.any(weights < np.where(signed, -128, 0)) or np.any(weights > np.where(signed, 127, 255)):
        raise InputError("codec config: weights are out of range")
    offset_of = unpack_array(config.get("offset_of"), "offset_of", "<u1", 1)
    if offset_of.shape != (65,) or offset_of.max() > 32:
        raise InputError("codec config: offset_of must have 65 entries below 33")
    scales = Scales(
        whole(config, "scale_low", 0, 255),
        whole(config, "scale_split", 1, 255),
        whole(config, "scale_wide", 4, 255),
        offset_of,
    )
    radii = unpack_array(config.get("radii"), "radii", "<u2", 1)
    if 2 * (int(radii.sum(dtype=np.int64)) + len(radii)) > MAX_ENTRIES:
        raise InputError(f"codec config: tables of more than {MAX_ENTRIES} entries")
    bank = Bank(radii, unpack_array(config.get("frequencies"), "frequencies", "<u2", 1))
    if len(bank) != scales.tables:
        raise InputError(f"codec config: {len(bank)} tables where the scales need {scales.tables}")
    centroids = unpack_array(config.get("centroids"), "centroids", "<i1", 2)
    if centroids.shape != (len(bank), 5) or np.abs(centroids.astype(np.int16)).max() > MAX_CENTROID:
        raise InputError(f"codec config: centroids must be {len(bank)} rows of 5 within +-{MAX_CENTROID}")
    parameters = Parameters(whole(config, "first_level", -128, 127), whole(config, "spacing", 1, 255), base, weights)
    return Prior(hierarchical, parameters, scales, bank, centroids, spatial)
