"""A second decoder, written from docs/format.md alone: plain Python integers, no NumPy, no constriction; slow."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from typing import Any

MANTISSAS = (256, 279, 304, 332, 362, 395, 431, 470)
RECIPROCALS = (0, 64, 32, 21, 16, 13, 11, 9, 8)
DIAGONAL = [(-1, -1), (-1, 1), (1, -1), (1, 1)]
AXIS = [(-1, 0), (1, 0), (0, -1), (0, 1)]


def _both(a: int, b: int) -> list[tuple[int, int]]:
    return [(p * i, q * j) for i, j in ((a, b), (b, a)) for p in (-1, 1) for q in (-1, 1)]


NEAR = {"diag": DIAGONAL, "across": AXIS, "down": AXIS}
FAR = {"diag": _both(3, 1), "across": _both(2, 1), "down": DIAGONAL}
PLACES = {"across": (0, 1), "down": (1, 0), "diag": (1, 1)}


class Damaged(Exception):
    pass


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def unpack(packed: dict[str, Any]) -> list[Any]:
    raw = zlib.decompress(base64.b64decode(packed["data"]))
    code = {"<f4": "f", "<f2": "e", "<u2": "H", "<i2": "h", "<u1": "B", "<i1": "b"}[packed["dtype"]]
    width, count = struct.calcsize("<" + code), math.prod(packed["shape"])
    whole = bytes(raw[plane * count + i] for i in range(count) for plane in range(width))
    return list(struct.unpack(f"<{count}{code}", whole))


class Coder:
    def __init__(self, words: list[int]) -> None:
        self.words, self.position, self.state = words, 0, 0
        self.bits = 0.0
        self._refill()

    def _refill(self) -> None:
        while self.state < 1 << 32 and self.position < len(self.words):
            self.state = self.state << 32 | self.words[self.position]
            self.position += 1

    def pull(self, frequencies: list[int]) -> int:
        """`frequencies` sum to 2^24."""
        quantile, symbol, low = self.state & 0xFFFFFF, 0, 0
        while low + frequencies[symbol] <= quantile:
            low += frequencies[symbol]
            symbol += 1
        self.state = frequencies[symbol] * (self.state >> 24) + quantile - low
        self.bits += 24 - math.log2(frequencies[symbol])
        if self.state < 1 << 32 and self.position < len(self.words):
            self.state = self.state << 32 | self.words[self.position]
            self.position += 1
        return symbol

    def raw(self, count: int, bits: int) -> list[int]:
        values = [0] * count
        for shift in range(0, bits, 16):
            width = min(16, bits - shift)
            for i in range(count):
                quantile = self.state & 0xFFFFFF
                values[i] |= (quantile >> (24 - width)) << shift
                self.state = ((self.state >> 24) << (24 - width)) + (quantile & ((1 << (24 - width)) - 1))
                self.bits += width
                if self.state < 1 << 32 and self.position < len(self.words):
                    self.state = self.state << 32 | self.words[self.position]
                    self.position += 1
        return values

    def finished(self) -> bool:
        return self.state == 0 and self.position == len(self.words)


class PlainDecoder:
    """Decodes frames of one codec, given as its JSON object."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.rank, self.hierarchical = config["rank"], config["prior"] == "hierarchical"
        self.classes = 10 if self.hierarchical else 1
        self.pyramid = config["version"] == 2
        self.base, self.weights = unpack(config["base"]), unpack(config["weights"])
        self.anchors = config["base"]["shape"][0]
        self.offset_of, self.radii = unpack(config["offset_of"]), unpack(config["radii"])
        self.centroids = unpack(config["centroids"])
        frequencies, self.tables = unpack(config["frequencies"]), []
        for radius in self.radii:
            self.tables.append([256 * f for f in frequencies[: 2 * radius + 2]])
            frequencies = frequencies[2 * radius + 2 :]
        rare = [1 << (15 - i) for i in range(15)] + [1] * 25
        self.escape = [256 * f for f in [rare[0] + 65536 - sum(rare), *rare[1:]]]

    def header(self, blob: bytes) -> dict[str, Any]:
        if blob[:3] != b"\x9aN\x01" or crc32c(blob[:8] + blob[12:]) != struct.unpack_from("<I", blob, 8)[0]:
            raise Damaged
        position, numbers = 12, []

        def varint() -> int:
            nonlocal position
            value = shift = 0
            while True:
                byte = blob[position]
                position += 1
                value |= (byte & 127) << shift
                if byte < 128:
                    return value
                shift += 7

        numbers = [varint() for _ in range(5)]
        n, y, x, channels, width = numbers
        levels = self.levels(y, x) if channels else []
        live, coarse = [channels] * len(levels), []
        for i in range(len(levels)):
            if self.pyramid:
                live[i] = varint()
            if i < len(levels) - 1:
                coarse.append(varint())
        words = list(struct.unpack(f"<{(len(blob) - position) // 4}I", blob[position:]))
        level = struct.unpack_from("<b", blob, 3)[0]
        return {
            "level": level, "n": n, "y": y, "x": x, "channels": channels, "width": width,
            "id": blob[4:8].hex(), "words": words, "live": live, "coarse": coarse, "levels": levels,
        }  # fmt: skip

    def levels(self, y: int, x: int) -> list[list[tuple[str, int, int, int]]]:
        """Waves (kind, row, column, S) by resolution."""
        if not self.hierarchical:
            return [[("root", 0, 0, 1)]]
        spacing = 1
        while spacing < max(y, x):
            spacing *= 2
        levels = [[("root", 0, 0, spacing)]]
        while spacing > 1:
            h = spacing // 2
            order = ("across", "down", "diag") if self.pyramid else ("diag", "across", "down")
            waves = [(kind, PLACES[kind][0] * h, PLACES[kind][1] * h, spacing) for kind in order]
            levels.append([wave for wave in waves if wave[1] < y and wave[2] < x])
            spacing = h
        return levels

    def parameters(self, level: int, kind: int, channel: int) -> tuple[int, ...]:
        """b0, then wn, wf, an, af, ap, or a1 to a4."""
        spacing = self.config["spacing"]
        t = min(max(level - self.config["first_level"], 0), spacing * (self.anchors - 1))
        i, p = divmod(t, spacing)

        def blend(values: list[int], first: int) -> int:
            low, high = (
                values[((first * self.anchors + a) * self.classes + kind) * self.rank + channel]
                for a in (i, min(i + 1, self.anchors - 1))
            )
            return ((spacing - p) * low + p * high + spacing // 2) // spacing

        b = min(max(blend(self.base, 0) + level, 0), 352)
        return (MANTISSAS[b & 7] << (b >> 3)) >> 8, *(
            blend(self.weights, w) for w in range(self.config["weights"]["shape"][0])
        )

    def decode(
        self, blob: bytes, levels: int | None = None
    ) -> tuple[dict[str, Any], dict[tuple[int, ...], Any], Coder]:
        """Header, {(image, row, column, channel): (symbol, centroid)}, and the coder; only the first `levels` if given.

        With `levels`, only the words which those levels add are given to the coder.
        """
        head = self.header(blob)
        words = head["words"] if levels is None else head["words"][: sum(head["coarse"][:levels])]
        coder, known = Coder(words), {}
        self.size = head["y"], head["x"]
        block = max(1, (1 << 20) // max(head["y"] * head["x"] * head["channels"], 1))
        for waves, live in zip(head["levels"][:levels], head["live"], strict=False):
            for kind, row, column, spacing in waves:
                for first in range(0, head["n"], block):
                    images = range(first, min(first + block, head["n"]))
                    places = [
                        (i, y, x, c)
                        for y in range(row, head["y"], spacing)
                        for x in range(column, head["x"], spacing)
                        for i in images
                        for c in range(head["channels"])
                    ]
                    known.update({place: (0, 0) for place in places if place[3] >= live})
                    self._block(coder, known, [place for place in places if place[3] < live], head, kind, spacing)
        return head, known, coder

    def _mean(
        self, known: dict[tuple[int, ...], Any], place: tuple[int, ...], offsets: list[tuple[int, int]], half: int
    ) -> tuple[int, int]:
        i, y, x, c = place
        found = [
            known[i, y + dy * half, x + dx * half, c][0]
            for dy, dx in offsets
            if (i, y + dy * half, x + dx * half, c) in known
        ]
        scale = RECIPROCALS[len(found)]
        return sum(found) * scale, sum(map(abs, found)) * scale

    def _context(
        self, known: dict[tuple[int, ...], Any], place: tuple[int, ...], kind: str, spacing: int, level: int
    ) -> tuple[int, int, int, int]:
        """base, mirror, table, shift."""
        number = 0
        if kind != "root":
            octave = {2: 0, 4: 1}.get(spacing, 2)
            number = 1 + 3 * octave + ("diag", "across", "down").index(kind)
        b0, *weights = self.parameters(level, number, place[3])
        prediction, magnitude = 0, b0
        if self.pyramid and kind != "root":
            features = self._features(known, place, kind, spacing)
            magnitude = sum(a * f for a, f in zip(weights, features, strict=True)) + b0
        elif kind != "root":
            wn, wf, an, af, ap = weights
            near, near_size = self._mean(known, place, NEAR[kind], spacing // 2)
            far, far_size = self._mean(known, place, FAR[kind], spacing // 2)
            prediction = wn * near + wf * far
            magnitude = an * near_size + af * far_size + ap * (abs(prediction) >> 7) + b0
        magnitude = max(magnitude, 1)
        base = (prediction + 4096) >> 13
        fraction = prediction - (base << 13)
        exponent = magnitude.bit_length() - 1
        split, wide = self.config["scale_split"], self.config["scale_wide"]
        index = max(0, 4 * exponent + ((magnitude << 2 >> exponent) & 3) - self.config["scale_low"])
        shift = max(0, (index - (split + wide - 1) + 3) >> 2)
        index -= 4 * shift
        offsets = 1 + max(self.offset_of)
        table = index * offsets + self.offset_of[abs(fraction) >> 6] if index < split else split * (offsets - 1) + index
        return base, -1 if fraction < 0 else 1, table, shift

    def _features(
        self, known: dict[tuple[int, ...], Any], place: tuple[int, ...], kind: str, spacing: int
    ) -> list[int]:
        """F1 to F4 of a pyramid's detail."""
        i, y, x, c = place
        height, width = self.size
        cell, before = (y // spacing, x // spacing), ("across", "down", "diag")
        before = before[: before.index(kind)]

        def size(name: str, step: int, row: int, column: int) -> int:
            """Magnitude in a cell, of the band's last row or column where there is no such cell."""
            dy, dx = (step // 2 * offset for offset in PLACES[name])
            rows, columns = len(range(dy, height, step)), len(range(dx, width, step))
            if not rows or not columns:
                return 0
            row, column = min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)
            return abs(known[i, row * step + dy, column * step + dx, c][0])

        def around(names: tuple[str, ...], step: int, middle: tuple[int, int], cells: tuple[int, int]) -> int:
            total = 0
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    row = min(max(middle[0] + dy, 0), cells[0] - 1)
                    column = min(max(middle[1] + dx, 0), cells[1] - 1)
                    weight = (2 - abs(dy)) * (2 - abs(dx))
                    total += weight * sum(size(name, step, row, column) for name in names)
            return total

        dy, dx = (spacing // 2 * offset for offset in PLACES[kind])
        cells = len(range(dy, height, spacing)), len(range(dx, width, spacing))
        siblings = [64 * sum(size(name, spacing, *cell) for name in before), 4 * around(before, spacing, cell, cells)]
        if spacing >= max(height, width):
            return [64 * abs(known[i, 0, 0, c][0]), 0, *siblings]
        above, double = (cell[0] // 2, cell[1] // 2), 2 * spacing
        cells = -(-cells[0] // 2), -(-cells[1] // 2)
        return [64 * size(kind, double, *above), 4 * around(tuple(PLACES), double, above, cells), *siblings]

    def _block(
        self,
        coder: Coder,
        known: dict[tuple[int, ...], Any],
        places: list[tuple[int, ...]],
        head: dict[str, Any],
        kind: str,
        spacing: int,
    ) -> None:
        contexts = [self._context(known, place, kind, spacing, head["level"]) for place in places]
        residual, escaped = [0] * len(places), []
        for k in sorted(range(len(places)), key=lambda k: (contexts[k][2], k)):
            table, radius = contexts[k][2], self.radii[contexts[k][2]]
            symbol = coder.pull(self.tables[table])
            residual[k] = symbol - radius
            if symbol == 2 * radius + 1:
                escaped.append(k)
        lengths = [coder.pull(self.escape) for _ in escaped]
        for length in sorted(set(lengths)):
            chosen = [k for k, other in zip(escaped, lengths, strict=True) if other == length]
            for k, low in zip(chosen, coder.raw(len(chosen), length), strict=True):
                u = (1 << length | low) - 1
                size = (u >> 1) + self.radii[contexts[k][2]] + 1
                residual[k] = -size if u & 1 else size
        for shift in sorted({context[3] for context in contexts} - {0}):
            chosen = [k for k in range(len(places)) if contexts[k][3] == shift]
            for k, low in zip(chosen, coder.raw(len(chosen), shift), strict=True):
                residual[k] = (residual[k] << shift) + low - (1 << (shift - 1))
        for place, r, (base, mirror, table, _) in zip(places, residual, contexts, strict=True):
            centroid = self.centroids[5 * table + min(max(r, -2), 2) + 2] * mirror
            known[place] = (base + mirror * r, centroid)

    def _mean_at(self, row: int, column: int, mean: list[float]) -> list[float]:
        if "positions" not in self.config:
            return list(mean)
        rows, columns, d = self.config["positions"]["shape"]
        start = ((row % rows) * columns + column % columns) * d
        return [a + b for a, b in zip(mean, unpack(self.config["positions"])[start : start + d], strict=True)]

    def embeddings(self, blob: bytes) -> dict[tuple[int, int, int], list[float]]:
        """{(image, row, column): d floats}."""
        head, known, _ = self.decode(blob)
        step, mean = self.config["step"] * 2 ** (-head["level"] / 8), unpack(self.config["mean"])
        basis = unpack(self.config["basis"]) if "basis" in self.config else None
        order = unpack(self.config["order"]) if "order" in self.config else []
        out = {
            (i, y, x): self._mean_at(y, x, mean)
            for i in range(head["n"])
            for y in range(head["y"])
            for x in range(head["x"])
        }
        for (i, y, x, c), value in self._coefficients(head, known, step).items():
            token = out[i, y, x]
            if basis is None:
                token[order[c]] += value
            else:
                for d in range(len(mean)):
                    token[d] += value * basis[c * len(mean) + d]
        return out

    def _coefficients(
        self, head: dict[str, Any], known: dict[tuple[int, ...], Any], step: float
    ) -> dict[tuple[int, ...], float]:
        """What the basis is applied to: values of the symbols, of a pyramid its inverse."""
        values = {place: step * (symbol + centroid / 256) for place, (symbol, centroid) in known.items()}
        if not self.pyramid:
            return values
        gains, (height, width) = unpack(self.config["gains"]), (head["y"], head["x"])
        spacings = [1 << i for i in range(1, (max(height, width) - 1).bit_length() + 1)]
        for i, y, x, c in values:
            octave = sum(y % s == 0 and x % s == 0 for s in spacings)
            values[i, y, x, c] /= gains[min(octave, len(gains) - 1)]
        for s in reversed(spacings):
            h = s // 2
            for axis in (1, 0):  # columns, then rows
                self._pairs(values, [range(0, height, h), range(0, width, h)], axis, h)
        return values

    @staticmethod
    def _pairs(values: dict[tuple[int, ...], float], lattice: list[range], axis: int, h: int) -> None:
        """Undo one step of the pyramid along an axis of the lattice of spacing h."""
        done = set()
        for i, y, x, c in [place for place in values if place[1] in lattice[0] and place[2] in lattice[1]]:
            place = y // h, x // h
            if place[axis] % 2 or (i, y, x, c) in done:
                continue
            other = (i, y + h, x, c) if axis == 0 else (i, y, x + h, c)
            if other in values:
                a, b = values[i, y, x, c], values[other]
                values[i, y, x, c], values[other] = (a + b) / math.sqrt(2), (a - b) / math.sqrt(2)
            elif len(lattice[axis]) > 1:
                values[i, y, x, c] /= math.sqrt(2)
