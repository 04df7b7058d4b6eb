"""The whole of a small benchmark: rows, resuming, what is computed again, honest bytes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nec
from nec.bench import Results, Row, curve
from nec.bench import heads as bench_queue
from nec.bench import models as bench_models
from nec.bench import run as bench_run
from nec.bench.recipe import load_recipe
from nec.bench.run import run_bench
from nec.bench.subset import Cache
from nec.errors import InputError, NecError
from nec.store.backend import WriterLock


def timeless(results: Results) -> list[Row]:
    return [replace(row, seconds={}) for row in results.rows]


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, dataset: str, model: str, recipe: Path
) -> tuple[Path, Path, Results]:
    """Recipe, folder and results of an uninterrupted run."""
    out = tmp_path_factory.mktemp("bench") / "out"
    return recipe, out, run_bench(load_recipe(recipe, [dataset]), model, out, jobs=1, quiet=True)


@pytest.mark.slow
def test_one_run_gives_every_row(finished: tuple[Path, Path, Results]) -> None:
    _, out, results = finished
    methods = ["original", "rdc", "jpeg2000", "uqe", "nec-factorized"]
    assert results.methods("eurosat") == methods
    assert [(r.method, r.decoder, r.seed) for r in results.rows] == [
        (method, decoder, seed) for method in methods for decoder in (False, True) for seed in (0, 1)
    ]
    assert all(r.exact and 0 <= r.metrics["accuracy"] <= 1 and np.sum(r.confusion) == 24 for r in results.rows)
    assert Results.read(out).rows == results.rows
    assert len((out / "results.csv").read_text().splitlines()) == 21
    assert results.datasets["eurosat"]["test"] == 24
    assert results.datasets["eurosat"]["raw_pixel_bytes_per_image"] == 768


@pytest.mark.slow
def test_each_image_that_a_head_got_right_is_kept(finished: tuple[Path, Path, Results]) -> None:
    _, out, _ = finished
    cache = Cache(out / "cache")
    kept = {path.stem.removeprefix("outcome-") for path in (out / "cache").glob("outcome-*.npz")}
    heads = {path.stem.removeprefix("head-") for path in (out / "cache").glob("head-*.json")}
    assert kept == heads
    for key in heads:
        right, head = cache.get_array("outcome", key), cache.get("head", key)
        assert right is not None
        assert head is not None
        assert len(right) == 24
        assert right.mean() == pytest.approx(head["metrics"]["accuracy"])


@pytest.mark.slow
def test_lossless_images_share_their_heads(finished: tuple[Path, Path, Results]) -> None:
    rows = {method: [r for r in finished[2].rows if r.method == method] for method in ("original", "rdc")}
    assert [r.metrics for r in rows["original"]] == [r.metrics for r in rows["rdc"]]
    assert rows["original"][0].bytes_per_image != rows["rdc"][0].bytes_per_image


@pytest.mark.slow
def test_a_finished_run_computes_nothing(
    finished: tuple[Path, Path, Results], dataset: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, out, results = finished
    for name in ("measure_images", "measure_tokens", "measure_adapted", "embedded"):
        monkeypatch.setattr(bench_run, name, lambda *a, **k: pytest.fail("computed again"))
    monkeypatch.setattr(bench_queue, "train_head", lambda *a, **k: pytest.fail("computed again"))
    monkeypatch.setattr(bench_models, "trained", lambda *a, **k: pytest.fail("computed again"))
    again = run_bench(load_recipe(recipe, [dataset]), model, out, jobs=1, quiet=True)
    assert again.rows == results.rows


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_results(
    finished: tuple[Path, Path, Results],
    dataset: str,
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe, _, results = finished
    train, calls = bench_queue.train_head, []

    def stop_at_seven(job: Any) -> Any:
        calls.append(job)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return train(job)

    with monkeypatch.context() as patch:
        patch.setattr(bench_queue, "train_head", stop_at_seven)
        with pytest.raises(KeyboardInterrupt):
            run_bench(load_recipe(recipe, [dataset]), model, tmp_path / "out", jobs=1, quiet=True)
    resumed = run_bench(load_recipe(recipe, [dataset]), model, tmp_path / "out", jobs=2, quiet=True)
    assert timeless(resumed) == timeless(results)
    assert not list((tmp_path / "out" / "cache").glob("features-*"))


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    recipe = load_recipe(None, ["eurosat:nowhere"])
    held = WriterLock(tmp_path)
    with pytest.raises(InputError, match="another writer"):
        run_bench(recipe, "eurosat-tiny", tmp_path, jobs=1, quiet=True)
    held.release()
    with pytest.raises(InputError, match="nowhere"):  # free again, and given back after an error
        run_bench(recipe, "eurosat-tiny", tmp_path, jobs=1, quiet=True)
    WriterLock(tmp_path).release()


@pytest.mark.slow
def test_changed_entries_alone_are_computed_again(
    finished: tuple[Path, Path, Results], dataset: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, out, _ = finished
    changed = tmp_path / "changed.yaml"
    changed.write_text(recipe.read_text().replace('"uqe:4"', '"uqe:4,2"').replace("seeds: [0, 1]", "seeds: [1, 2]"))
    train, jobs = bench_queue.train_head, []

    def count(job: Any) -> Any:
        jobs.append(job)
        return train(job)

    monkeypatch.setattr(bench_queue, "train_head", count)
    results = run_bench(load_recipe(changed, [dataset]), model, out, jobs=1, quiet=True, only=["eurosat/uqe"])
    assert [job.seed for job in jobs] == [2, 2, 1, 2, 1, 2]  # uqe 4 lacked seed 2, uqe 2 lacked both
    uqe = [r for r in results.rows if r.method == "uqe"]
    assert {(r.label, r.seed) for r in uqe} == {("4 bit", 1), ("4 bit", 2), ("2 bit", 1), ("2 bit", 2)}
    assert {r.seed for r in results.rows if r.method == "original"} == {1}  # finished before, not run now


@pytest.mark.slow
def test_bytes_are_those_of_the_blobs(
    dataset: str, model: str, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nec.bench.methods import UQE

    sizes: list[tuple[int, int]] = []
    encode = UQE.encode

    def keep(self: UQE, batch: np.ndarray) -> bytes:
        blob = encode(self, batch)
        (tmp_path / f"{len(sizes)}.bin").write_bytes(blob)
        sizes.append((len(batch), (tmp_path / f"{len(sizes)}.bin").stat().st_size))
        return blob

    monkeypatch.setattr(UQE, "encode", keep)
    plan = load_recipe(recipe, [dataset])
    results = run_bench(plan, model, tmp_path / "out", jobs=1, quiet=True, only=["eurosat/uqe"])
    assert [count for count, _ in sizes] == [60, 12, 24]
    assert results.rows[0].bytes_per_image == sizes[-1][1] / 24


@pytest.mark.slow
def test_what_fails_does_not_stop_the_rest(
    finished: tuple[Path, Path, Results], dataset: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nec.bench.methods import UQE

    def refuse(self: UQE, batch: np.ndarray) -> bytes:
        raise InputError("no bytes today")

    changed = tmp_path / "changed.yaml"
    changed.write_text(finished[0].read_text().replace('"uqe:4"', '"uqe:5,3"'))
    monkeypatch.setattr(UQE, "encode", refuse)
    with pytest.raises(NecError, match=r"2 of the benchmark failed.*uqe 5 bit: no bytes today"):
        run_bench(load_recipe(changed, [dataset]), model, finished[1], jobs=1, quiet=True)
    assert Results.read(finished[1]).methods("eurosat") == ["original", "rdc", "jpeg2000", "nec-factorized"]


def test_only_names_what_the_recipe_has(dataset: str, model: str, recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--only eurosat/jpeg "):
        run_bench(load_recipe(recipe, [dataset]), model, tmp_path / "out", only=["eurosat/jpeg"])
    assert not (tmp_path / "out").exists()


def test_damaged_cache_entries_are_computed_again(tmp_path: Path) -> None:
    from nec.bench.subset import Cache, key_of

    cache = Cache(tmp_path)
    cache.put("head", "a", {"x": 1})
    assert cache.get("head", "a") == {"x": 1}
    cache.path("head", "a").write_text(json.dumps({"x": 1})[:-2])
    assert cache.get("head", "a") is None
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1}) != key_of({"a": 1, "b": 3})


@pytest.mark.slow
def test_adaptations_take_turns_with_heads_and_methods_are_compared(
    finished: tuple[Path, Path, Results], dataset: str, model: str, tmp_path: Path
) -> None:
    recipe, out, _ = finished
    changed = tmp_path / "changed.yaml"
    text = recipe.read_text().replace("{lmbda: [300]}", "{lmbda: [300, 3000], seeds: [0, 1]}")
    changed.write_text(text.replace('"uqe:4"', '"uqe:2,4,8"'))
    results = run_bench(load_recipe(changed, [dataset]), model, out, jobs=1, quiet=True)
    adapted = [(r.setting, r.decoder, r.adapt_seed, r.seed) for r in results.rows if r.method == "nec-factorized"]
    assert sorted(adapted) == [(w, d, s, s) for w in (300, 3000) for d in (False, True) for s in (0, 1)]
    assert [p.mean for p in curve(results, "eurosat", "nec-factorized", True)]
    assert all(item["method"] == "uqe" and item["reference"] == "nec-factorized" for item in results.bd_rate)
    assert {item["decoder"] for item in results.bd_rate if item["resampled"] == "images"} <= {False, True}
    assert Results.read(out).bd_rate == results.bd_rate


@pytest.mark.slow
def test_means_over_symmetries_are_the_base_models_own(dataset: str, model: str, tmp_path: Path) -> None:
    """The point's tokens are those of a model folder with as many symmetries, in the same benchmark's bytes."""
    (tmp_path / "r.yaml").write_text(
        "methods: ['codec-pyramid:0.5', {codec-symmetric: {symmetries: 4, qualities: [0.5]}}]\n"
        "seeds: [0]\ndecoder: [false]\ndatasets: {eurosat: {limits: {train: 60, val: 12, test: 24}}}\n"
        "heads: {classification: {epochs: 1, batch: 16}}\n"
    )
    plain, symmetric = run_bench(
        load_recipe(tmp_path / "r.yaml", [dataset]), model, tmp_path / "out", jobs=1, quiet=True
    ).rows
    folder = tmp_path / "turning"
    shutil.copytree(model, folder)
    document = json.loads((folder / "config.json").read_text())
    document["model"]["symmetries"] = 4
    (folder / "config.json").write_text(json.dumps(document))
    same, again = run_bench(
        load_recipe(tmp_path / "r.yaml", [dataset]), str(folder), tmp_path / "out", jobs=1, quiet=True
    ).rows
    assert symmetric.bytes_per_image == same.bytes_per_image == again.bytes_per_image != plain.bytes_per_image
    assert symmetric.metrics == same.metrics


@pytest.mark.slow
def test_one_adapted_model_serves_all_qualities(dataset: str, model: str, tmp_path: Path) -> None:
    """A point a quality, from one model that is adapted once and the codec in its folder, in real bytes."""
    (tmp_path / "r.yaml").write_text(
        "adapt: {epochs: 1, batch_size: 16, blr: 1.0e-2, warmup_epochs: 0.1}\n"
        "methods: [{nec-hierarchical: {qualities: [0.25, 1], distortion: features, quantization: straight-through}}]\n"
        "seeds: [0]\ndecoder: [false]\ndatasets: {eurosat: {limits: {train: 60, val: 12, test: 24}}}\n"
        "heads: {classification: {epochs: 1, batch: 16}}\n"
    )
    results = run_bench(load_recipe(tmp_path / "r.yaml", [dataset]), model, tmp_path / "out", jobs=1, quiet=True)
    low, high = results.rows
    assert 0 < low.bytes_per_image < high.bytes_per_image
    assert low.fidelity["relative_error"] > high.fidelity["relative_error"]
    (folder,) = (tmp_path / "out" / "models" / "eurosat").glob("*/codec.json")
    assert low.side_information == high.side_information == nec.EmbeddingCodec.load(folder).nbytes
