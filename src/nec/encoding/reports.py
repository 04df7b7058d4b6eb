"""What `nec.encode` says of what it made."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nec.report import Report


@dataclass(frozen=True)
class EncodeReport(Report):
    """Base of what was made of images, `ImagesReport`, and of scenes, `ScenesReport`.

    Its JSON has the keys of `store`, and its other fields but `out`.

    Attributes:
        out: where the store is.
        store: what `nec.info` says of it; of a raster store that is incomplete nothing.
        fitted_on: how many images or tiles a codec was fitted on, since there was none; None: it was there.
        seconds: of the run.
    """

    out: str
    store: dict[str, Any]
    fitted_on: int | None
    seconds: float

    @property
    def complete(self) -> bool:
        """Whether the store is complete."""
        return True

    @property
    def failed(self) -> bool:
        """Whether something was left out: the command then leaves with status 1."""
        return not self.complete

    def to_dict(self) -> dict[str, Any]:
        own = {name: value for name, value in asdict(self).items() if name not in ("out", "store", "fitted_on")}
        fitted = {} if self.fitted_on is None else {"codec_fitted_on": self.fitted_on}
        return {**self.store, **own, **fitted}

    def _codec(self, what: str) -> str:
        return "" if self.fitted_on is None else f", codec fitted on {self.fitted_on} of the {what}: nec fit makes one"


@dataclass(frozen=True)
class ImagesReport(EncodeReport):
    """What was made of images.

    Attributes:
        raw_bytes: of the image files.
        encoded_images: how many this run encoded.
        images_per_second: the pace of that.
    """

    raw_bytes: int
    encoded_images: int
    images_per_second: float

    def __str__(self) -> str:
        store = self.store
        stored, side = store["stored_bytes"], sum(store["side_information"].values())
        return (
            f"{self.out}: {store['images']} images, {stored:,} bytes ({store['bytes_per_image']:.0f} an image, "
            f"{stored / self.raw_bytes:.1%} of the image files) and {side:,} of side information, "
            f"quality {store['quality']:.3g}, {self.images_per_second:.0f} images/s{self._codec('images')}"
        )


@dataclass(frozen=True)
class FailedTile:
    """A tile that could not be read: its first row and column and its side, in pixels of the scene, and why."""

    row: int
    column: int
    side: int
    error: str


@dataclass(frozen=True)
class ScenesReport(EncodeReport):
    """What was made of one scene or several; ends with the first that is incomplete.

    Attributes:
        dates_complete: whether all that were begun are complete.
        time: date of the last scene.
        failed_tiles: that could not be read.
        shards_left_out: for that reason.
        tiles, tokens: that this run made.
        square_km, square_km_per_second: of the scenes; None where their CRS does not tell.
        tiles_per_second: the pace.
    """

    dates_complete: bool
    time: str
    failed_tiles: list[FailedTile]
    shards_left_out: int
    tiles: int
    tokens: int
    square_km: float | None

    @property
    def complete(self) -> bool:
        return self.dates_complete

    @property
    def notes(self) -> list[str]:
        """The tiles that could not be read."""
        return [
            f"unreadable tile at row {tile.row}, column {tile.column} ({tile.side} px): {tile.error}"
            for tile in self.failed_tiles
        ]

    @property
    def tiles_per_second(self) -> float:
        """Tiles by seconds."""
        return self.tiles / self.seconds

    @property
    def square_km_per_second(self) -> float | None:
        """Area by seconds."""
        return None if self.square_km is None else self.square_km / self.seconds

    def to_dict(self) -> dict[str, Any]:
        found = super().to_dict()
        paces = {"tiles_per_second": self.tiles_per_second, "square_km_per_second": self.square_km_per_second}
        return {**found, "complete": found.pop("dates_complete"), **paces}

    def __str__(self) -> str:
        if not self.complete:
            return (
                f"{self.out}: incomplete, {self.shards_left_out} shard(s) with {len(self.failed_tiles)} unreadable "
                "tile(s) were left out: mend the source and go on with --resume, or give --skip-failed with it"
            )
        store, area = self.store, self.square_km_per_second
        pace = f"{self.tiles_per_second:.1f} tiles/s" + ("" if area is None else f", {area:.3g} km2/s")
        return (
            f"{self.out}: {len(store['times'])} date(s), {store['grid'][0]} x {store['grid'][1]} tokens of "
            f"{store['dimensions']}, {store['stored_bytes']:,} bytes, quality {store['quality']:.3g}, {pace}"
            f"{self._codec('tiles')}"
        )

    def followed_by(self, last: ScenesReport) -> ScenesReport:
        """One report of this and of a later date of the same store."""
        areas = (self.square_km, last.square_km)
        return ScenesReport(
            out=last.out,
            store=last.store,
            fitted_on=self.fitted_on,
            seconds=self.seconds + last.seconds,
            dates_complete=last.dates_complete,
            time=last.time,
            failed_tiles=[*self.failed_tiles, *last.failed_tiles],
            shards_left_out=last.shards_left_out,
            tiles=self.tiles + last.tiles,
            tokens=self.tokens + last.tokens,
            square_km=None if None in areas else sum(areas),  # type: ignore[arg-type]
        )


def store_info(location: str | Path) -> dict[str, Any]:
    """What `nec.info` says of a store, as a dict."""
    from nec.store import info

    found: Any = info(location)
    return found if isinstance(found, dict) else found.to_dict()
