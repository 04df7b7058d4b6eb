"""Writing: interrupted anywhere, resumed to the same bytes; never over something else; one writer."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nec
from nec.store import ImageSpec, ImageWriter, open_store, verify
from nec.store.backend import JOURNAL, LOCK


def digest(folder: Path) -> dict[str, str]:
    """Hash of every file in a folder."""
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def complete(path: Path, embeddings: np.ndarray, keywords: dict[str, Any]) -> list[tuple[int, int]]:
    with ImageWriter.resume(path, ImageSpec(**keywords)) as writer:
        missing = writer.missing()
        for start, stop in missing:
            writer.write(start, embeddings[start:stop])
        writer.finish()
    return missing


def test_order_of_writing_and_interruption_do_not_show(
    tmp_path: Path, store_path: Path, embeddings: np.ndarray, keywords: dict[str, Any]
) -> None:
    path = tmp_path / "other.zarr"
    with ImageWriter.create(path, ImageSpec(**keywords)) as writer:
        assert writer.missing() == [(0, 12), (12, 24), (24, 36), (36, 48), (48, 53)]
        for start, stop in reversed(writer.missing()[2:]):
            writer.write(start, embeddings[start:stop].astype(np.float64))
    with pytest.raises(nec.IncompleteError, match="--resume"):
        open_store(path)
    with pytest.raises(nec.IncompleteError):
        verify(path)
    partial = open_store(path, allow_incomplete=True)
    assert partial.stored_bytes > 0
    with pytest.raises(nec.CorruptError, match="missing"):
        partial.embeddings[0]
    assert complete(path, embeddings, keywords) == [(0, 12), (12, 24)]
    assert digest(path) == digest(store_path)


CRASHING = """
import os, pickle, signal, sys
from pathlib import Path
from nec.store import ImageSpec, ImageWriter, open_store
import nec.codec.zarr_codec

embeddings, document, keywords, folder, step = pickle.loads(Path(sys.argv[1]).read_bytes())
keywords["codec"] = nec.EmbeddingCodec.from_dict(document)

def fill(make, path):
    with make(path, ImageSpec(**keywords)) as writer:
        for start, stop in writer.missing():
            writer.write(start, embeddings[start:stop])
        writer.finish()

def child(work, *arguments):
    pid = os.fork()
    if not pid:
        try:
            work(*arguments)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]

def crash(path, at):
    seen = 0
    def hook(event, arguments):
        nonlocal seen
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link"):
            seen += 1
            if seen > at:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    fill(ImageWriter.create, path)

def check(path):
    # A store that says it is complete is complete; any other is completed, or begun where it had not begun.
    try:
        open_store(path, allow_incomplete=False).embeddings[:]
    except nec.IncompleteError:
        pass
    except nec.InputError:
        return fill(ImageWriter.create, path)
    fill(ImageWriter.resume, path)

at, killed = 0, True
while killed:
    path = folder / f"crash-{at}.zarr"
    killed = os.WIFSIGNALED(child(crash, path, at))
    assert child(check, path) == 0, f"resume failed after operation {at}"
    at += step
print(at)
"""


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_before_any_file_operation_then_resumed(
    step: int, tmp_path: Path, make: Callable[..., Path], embeddings: np.ndarray, keywords: dict[str, Any]
) -> None:
    """kill -9 just before the k-th operation that changes the disk: k = 0, step, 2 step, ... until one run survives."""
    import pickle

    reference = digest(make(tmp_path / "reference.zarr"))
    folder = tmp_path / "crashes"
    folder.mkdir()
    plain = {key: value for key, value in keywords.items() if key != "codec"}
    task = tmp_path / "task.pickle"
    task.write_bytes(pickle.dumps((embeddings, keywords["codec"].to_dict(), plain, folder, step)))
    result = subprocess.run([sys.executable, "-c", CRASHING, str(task)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    stores = sorted(folder.glob("crash-*.zarr"))
    assert len(stores) == int(result.stdout) // step > 40 // step
    for path in stores:
        assert digest(path) == reference, path


def test_killed_from_outside_while_writing(
    tmp_path: Path, make: Callable[..., Path], embeddings: np.ndarray, keywords: dict[str, Any]
) -> None:
    import pickle

    reference = digest(make(tmp_path / "reference.zarr"))
    path = tmp_path / "killed.zarr"
    script = (
        "import pickle, sys, time, nec; from nec.store import ImageSpec, ImageWriter;"
        "embeddings, document, keywords, path = pickle.loads(open(sys.argv[1], 'rb').read());"
        "spec = ImageSpec(codec=nec.EmbeddingCodec.from_dict(document), **keywords);"
        "writer = ImageWriter.create(path, spec);"
        "[(writer.write(a, embeddings[a:b]), time.sleep(0.2)) for a, b in writer.missing()]"
    )
    plain = {key: value for key, value in keywords.items() if key != "codec"}
    task = tmp_path / "task.pickle"
    task.write_bytes(pickle.dumps((embeddings, keywords["codec"].to_dict(), plain, path)))
    process = subprocess.Popen([sys.executable, "-c", script, str(task)])
    try:
        deadline = time.monotonic() + 60
        while not (path / "embeddings" / "c.1.0.0.0").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        with pytest.raises(nec.InputError, match=f"process {process.pid} on {socket.gethostname()}"):
            ImageWriter.resume(path, ImageSpec(**keywords))
        with pytest.raises(nec.InputError, match="another writer"):
            ImageWriter.create(path, ImageSpec(**keywords), overwrite=True)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (path / LOCK).exists()  # the dead process's, taken over now
    assert 0 < len(complete(path, embeddings, keywords)) < 5
    assert digest(path) == reference


def test_damaged_and_lost_shards_are_written_again(
    tmp_path: Path, store_path: Path, embeddings: np.ndarray, keywords: dict[str, Any]
) -> None:
    before = digest(store_path)
    shard = store_path / "embeddings" / "c.1.0.0.0"
    shard.write_bytes(shard.read_bytes()[:-9])
    (store_path / "embeddings" / "c.3.0.0.0").unlink()
    flipped = bytearray((store_path / "embeddings" / "c.4.0.0.0").read_bytes())
    flipped[5] ^= 8
    (store_path / "embeddings" / "c.4.0.0.0").write_bytes(flipped)
    assert complete(store_path, embeddings, keywords) == [(12, 24), (36, 48), (48, 53)]
    assert digest(store_path) == before
    assert complete(store_path, embeddings, keywords) == []


def test_a_torn_journal_line_costs_one_shard(tmp_path: Path, embeddings: np.ndarray, keywords: dict[str, Any]) -> None:
    path = tmp_path / "torn.zarr"
    with ImageWriter.create(path, ImageSpec(**keywords)) as writer:
        for start, stop in writer.missing()[:3]:
            writer.write(start, embeddings[start:stop])
    journal = path / JOURNAL
    journal.write_bytes(journal.read_bytes()[:-6])
    assert complete(path, embeddings, keywords)[0] == (24, 36)
    assert verify(path).ok


def test_a_full_disk_leaves_a_store_that_resumes(
    tmp_path: Path, store_path: Path, embeddings: np.ndarray, keywords: dict[str, Any]
) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "full.zarr"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with ImageWriter.create(path, ImageSpec(**keywords)) as writer:
        writer.write(0, embeddings[:12])
        resource.setrlimit(resource.RLIMIT_FSIZE, (40, limits[1]))  # no file may grow beyond: as if the disk were full
        try:
            with pytest.raises(OSError, match="too large"):
                writer.write(12, embeddings[12:24])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(path.rglob("*.partial"))
    assert complete(path, embeddings, keywords)[0] == (12, 24)
    assert digest(path) == digest(store_path)


def test_finish_refuses_what_is_not_there(tmp_path: Path, embeddings: np.ndarray, keywords: dict[str, Any]) -> None:
    path = tmp_path / "early.zarr"
    with ImageWriter.create(path, ImageSpec(**keywords)) as writer:
        writer.write(0, embeddings[:12])
        with pytest.raises(nec.IncompleteError, match="4 of 5"):
            writer.finish()
    assert not open_store(path, allow_incomplete=True).complete


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"quality": 1.0}, "quality"),
        ({"model": {"name": "toy", "sha256": "cd" * 32}}, "model"),
        ({"names": [str(i) for i in range(53)]}, "checksums"),
        ({"split": None}, "checksums"),
        ({"labels": np.zeros(53, int)}, "checksums"),
        ({"class_names": ["a", "b", "c"]}, "classes"),
        ({"images_per_chunk": 5}, "images_per_chunk"),
        ({"grid": (4, 3)}, "grid"),
    ],
)
def test_resume_refuses_another_identity(
    store_path: Path, keywords: dict[str, Any], changes: dict[str, Any], word: str
) -> None:
    with pytest.raises(nec.InputError, match=word):
        ImageWriter.resume(store_path, ImageSpec(**{**keywords, **changes}))
    assert not (store_path / LOCK).exists()


def test_resume_refuses_another_codec(store_path: Path, keywords: dict[str, Any], embeddings: np.ndarray) -> None:
    other = nec.EmbeddingCodec.fit(embeddings * np.linspace(1, 2, 6, dtype=np.float32))
    with pytest.raises(nec.InputError, match="codec"):
        ImageWriter.resume(store_path, ImageSpec(**{**keywords, "codec": other}))


def test_resume_accepts_another_provenance_and_keeps_the_first(
    store_path: Path, keywords: dict[str, Any], embeddings: np.ndarray
) -> None:
    complete(store_path, embeddings, {**keywords, "provenance": {"version": "later"}})
    assert open_store(store_path).attrs["provenance"] == keywords["provenance"]


def test_nothing_else_is_overwritten(tmp_path: Path, store_path: Path, keywords: dict[str, Any]) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "holiday.jpg").write_bytes(b"precious")
    file = tmp_path / "file"
    file.write_text("text")
    for path in (folder, file):
        with pytest.raises(nec.InputError, match="not a store"):
            ImageWriter.create(path, ImageSpec(**keywords), overwrite=True)
    with pytest.raises(nec.InputError, match="--overwrite"):
        ImageWriter.create(store_path, ImageSpec(**keywords))
    with pytest.raises(nec.InputError, match="cannot be written to"):
        ImageWriter.create("https://example.org/a.zarr", ImageSpec(**keywords))
    with pytest.raises(nec.InputError, match="cannot make"):
        ImageWriter.create(file / "a.zarr", ImageSpec(**keywords))
    assert (folder / "holiday.jpg").read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "photos", "toy.zarr"]
    assert verify(store_path).ok


def test_overwrite_and_incomplete_advice(
    tmp_path: Path, store_path: Path, make: Callable[..., Path], keywords: dict[str, Any]
) -> None:
    before = digest(store_path)
    with ImageWriter.create(store_path, ImageSpec(**{**keywords, "quality": 9.0}), overwrite=True):
        pass
    with pytest.raises(nec.InputError, match="--resume"):
        ImageWriter.create(store_path, ImageSpec(**keywords))
    make(store_path, overwrite=True)
    assert digest(store_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["toy.zarr"]


def test_two_writers_in_one_process(tmp_path: Path, keywords: dict[str, Any]) -> None:
    first = ImageWriter.create(tmp_path / "a.zarr", ImageSpec(**keywords))
    with pytest.raises(nec.InputError, match=f"process {os.getpid()}"):
        ImageWriter.resume(tmp_path / "a.zarr", ImageSpec(**keywords))
    first.close()
    ImageWriter.resume(tmp_path / "a.zarr", ImageSpec(**keywords)).close()


def test_a_lock_of_another_host_is_respected(tmp_path: Path, keywords: dict[str, Any]) -> None:
    path = tmp_path / "a.zarr"
    ImageWriter.create(path, ImageSpec(**keywords)).close()
    (path / LOCK).write_text(json.dumps({"pid": 1, "host": "elsewhere"}))
    with pytest.raises(nec.InputError, match="process 1 on elsewhere"):
        ImageWriter.resume(path, ImageSpec(**keywords))
    (path / LOCK).unlink()
    ImageWriter.resume(path, ImageSpec(**keywords)).close()


def test_wrong_blocks_are_refused(tmp_path: Path, embeddings: np.ndarray, keywords: dict[str, Any]) -> None:
    nan = embeddings[:12].copy()
    nan[7, 1, 2, 3] = np.nan
    with ImageWriter.create(tmp_path / "a.zarr", ImageSpec(**keywords)) as writer:
        for start, block, word in [
            (3, embeddings[3:15], "multiples of 12"),
            (60, embeddings[:12], "multiples of 12"),
            (0, embeddings[:11], "shape"),
            (48, embeddings[:12], "shape"),
            (0, embeddings[:12].astype(int), "dtype"),
            (0, nan, "bild_7_ä.jpg"),
        ]:
            with pytest.raises(nec.InputError, match=word):
                writer.write(start, block)
        assert len(writer.missing()) == 5


@pytest.mark.parametrize(
    "changes",
    [
        {"names": []},
        {"quality": 0.0},
        {"quality": float("nan")},
        {"grid": (0, 4)},
        {"labels": np.zeros(52, int)},
        {"labels": np.full(53, 3)},
        {"labels": np.zeros(53)},
        {"split": ["train"] * 52 + ["validation"]},
        {"split": ["train"] * 52},
        {"images_per_chunk": 0},
        {"provenance": {"when": object()}},
        {"model": {"loss": float("nan")}},
    ],
)
def test_wrong_descriptions_are_refused_and_leave_nothing(
    tmp_path: Path, keywords: dict[str, Any], changes: dict[str, Any]
) -> None:
    with pytest.raises(nec.InputError):
        ImageWriter.create(tmp_path / "a.zarr", ImageSpec(**{**keywords, **changes}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("images", [1, 3, 4, 12, 13])
def test_few_images(tmp_path: Path, embeddings: np.ndarray, codec: nec.EmbeddingCodec, images: int) -> None:
    """Stores smaller than a chunk or a shard, with the default tiling, are not padded and read back."""
    path = tmp_path / "few.zarr"
    names = [str(i) for i in range(images)]
    with ImageWriter.create(path, ImageSpec(codec=codec, quality=4.0, names=names, grid=(3, 4))) as writer:
        assert writer.missing() == [(0, images)]
        writer.write(0, embeddings[:images])
        writer.finish()
    np.testing.assert_array_equal(open_store(path).embeddings[:], codec.decode(codec.encode(embeddings[:images], 4.0)))
    assert verify(path).to_dict() == {"ok": True, "chunks": 1, "found": 1, "corrupt": []}
