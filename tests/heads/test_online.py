"""Training from images: what is trained at which rate, what is random and when, and what the head sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")

import nec  # noqa: E402
from nec.cli import main  # noqa: E402
from nec.datasets import open_dataset  # noqa: E402
from nec.datasets.base import ArrayDataset  # noqa: E402
from nec.errors import InputError  # noqa: E402
from nec.heads import HeadReport, HeadResult, HeadSettings, predict, train_head  # noqa: E402
from nec.heads.network import AttentionHead, parameter_groups  # noqa: E402
from nec.heads.online import (  # noqa: E402
    AUGMENTATIONS,
    Augmentation,
    OnlineClassifier,
    Part,
    TokenSource,
    _learning_rate,
    bottleneck_quantizer,
    codec_quantizer,
    evaluation_views,
    training_views,
)
from nec.heads.train import Trained, train_once  # noqa: E402
from nec.models import ModelConfig, NecModel, save_model  # noqa: E402

SIZES = {
    "image_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2,
    "decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2,
}  # fmt: skip
QUICK = HeadSettings(epochs=2, batch=16, lr=5e-3)


def train_online(model: NecModel, dataset: Any, **options: Any) -> HeadResult:
    return train_head(dataset, model=model, online=True, **options)


def train_arrays(*parts: Any, settings: HeadSettings, quantize: Any = None, fine_tune: bool = True) -> Trained:
    """A head on pictures of three classes, of the model that the other tests use."""
    inputs = [Part(images.__getitem__, labels) for images, labels in parts]
    source = TokenSource(_model(), quantize, fine_tune)
    settings = settings.resolve("online", len(inputs[0]), False)
    return train_once(inputs, [part.labels for part in inputs], "classification", list("abc"), settings, images=source)


def _model(kind: str = "mae") -> NecModel:
    torch.manual_seed(0)
    return NecModel(ModelConfig.from_dict(SIZES | {"kind": kind})).eval()


def _pictures(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three classes: stripes along rows, along columns, none; in random colours and noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    wave = 50 * np.sign(np.sin(np.arange(16) * np.pi / 2 + 0.1))
    stripes = np.stack([np.tile(wave[:, None], (1, 16)), np.tile(wave, (16, 1)), np.zeros((16, 16))])
    images = stripes[labels][..., None] + rng.uniform(80, 170, (count, 1, 1, 3))
    images += rng.normal(scale=10, size=images.shape)
    return images.clip(0, 255).astype(np.uint8), labels.astype(np.int64)


def _dataset(count: int = 90) -> ArrayDataset:
    images, labels = _pictures(count)
    dataset = ArrayDataset(images, labels=labels, class_names=["rows", "columns", "none"])
    dataset.split = np.tile(["train", "train", "train", "val", "test"], count)[:count]
    return dataset


def _state(module: torch.nn.Module) -> dict[str, Any]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def _changed(before: dict[str, Any], after: torch.nn.Module) -> set[str]:
    return {name for name, value in after.state_dict().items() if not torch.equal(value, before[name])}


# -- what learns ------------------------------------------------------------------------------------------------------


def test_fine_tuning_learns_what_a_frozen_random_model_hardly_shows() -> None:
    settings = HeadSettings(epochs=12, batch=16, lr=5e-3, model_lr=5e-3, augmentation="none")
    figures = train_arrays(_pictures(240), _pictures(60, 1), _pictures(90, 2), settings=settings).figures
    assert figures["accuracy"] > 0.9
    assert figures["confusion"].sum() == 90
    assert figures["top5"] == 1


def test_a_frozen_model_stays_and_a_tuned_one_is_a_copy() -> None:
    model = _model()
    before = _state(model)
    dataset = _dataset()
    frozen = train_online(model, dataset, settings=QUICK)
    assert not _changed(before, model)
    assert isinstance(frozen.head.module, AttentionHead)
    tuned = train_online(model, dataset, settings=QUICK, fine_tune=True)
    assert not _changed(before, model)
    changed = _changed(before, tuned.head.module.source.model)
    encoder = {name for name in before if name.startswith(("patch_embed", "cls_token", "blocks", "norm"))}
    assert changed == encoder
    assert (frozen.report.source, tuned.report.source) == ("online", "fine-tune")
    assert tuned.report.head_parameters - frozen.report.head_parameters == sum(before[name].numel() for name in encoder)
    assert frozen.report.bytes_per_image == 16 * 16 * 3
    assert (frozen.report.train_images, frozen.report.val_images, frozen.report.test_images) == (54, 18, 18)
    json.dumps(tuned.report.to_dict(), allow_nan=False)


def test_rates_by_layer_are_maes() -> None:
    """Against the rule of MAE's `get_layer_id_for_vit`, written out for two blocks."""
    model = _model()
    source = TokenSource(model, None, fine_tune=True)
    head = AttentionHead.build(torch.randn(8, 4, 16), 3, model.decoder_stage())
    net, settings = OnlineClassifier(source, head), HeadSettings(lr=1.0, model_lr=0.1, layer_decay=0.5)
    groups = parameter_groups(net, lambda name: _learning_rate(name, net, settings), 0.3)
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    expected = {
        "source.model.patch_embed.proj.weight": (0.1 / 8, 0.3),
        "source.model.patch_embed.proj.bias": (0.1 / 8, 0),
        "source.model.cls_token": (0.1 / 8, 0),
        "source.model.blocks.0.attn.qkv.weight": (0.1 / 4, 0.3),
        "source.model.blocks.1.mlp.fc1.weight": (0.1 / 2, 0.3),
        "source.model.blocks.1.norm1.weight": (0.1 / 2, 0),
        "source.model.norm.weight": (0.1, 0),
        "head.stage.block.attn.qkv.weight": (0.1, 0.3),
        "head.pool.kv.weight": (1.0, 0.3),
        "head.head.bias": (1.0, 0),
    }
    named = dict(net.named_parameters())
    for name, wanted in expected.items():
        assert rates[id(named[name])] == pytest.approx(wanted), name
    left = {name for name, p in named.items() if id(p) not in rates}
    assert left == {name for name, p in named.items() if not p.requires_grad}
    assert all("pos_embed" in name or "decoder" in name or "mask_token" in name for name in left)


def test_test_and_validation_parts_never_reach_the_fit() -> None:
    train, val, test = _pictures(48), _pictures(12, 1), _pictures(12, 2)
    settings = HeadSettings(epochs=1, batch=16)
    first = train_online(_model(), _joined(train, val, test), settings=settings, fine_tune=True)
    second = train_online(
        _model(),
        _joined(train, (255 - val[0], val[1]), (255 - test[0], (test[1] + 1) % 3)),
        settings=settings,
        fine_tune=True,
    )
    assert not _changed(_state(first.head.module), second.head.module)
    assert not np.array_equal(first.report.figures["confusion"], second.report.figures["confusion"])


def _joined(*parts: tuple[np.ndarray, np.ndarray]) -> ArrayDataset:
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    dataset = ArrayDataset(images, labels=labels, class_names=["rows", "columns", "none"])
    dataset.split = np.repeat(["train", "val", "test"], [len(part[1]) for part in parts])
    return dataset


# -- randomness -------------------------------------------------------------------------------------------------------


def test_a_seed_decides_everything() -> None:
    paper = HeadSettings(epochs=2, batch=16, augmentation="paper")
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, again, other = (
        train_online(_model_kept(), _dataset(), settings=paper, fine_tune=True, seed=seed) for seed in (3, 3, 4)
    )
    torch.testing.assert_close(torch.rand(3), expected)
    assert not _changed(_state(first.head.module), again.head.module)
    assert _changed(_state(first.head.module), other.head.module)


def _model_kept() -> NecModel:
    with torch.random.fork_rng():
        return _model()


def test_views_follow_from_seed_and_step() -> None:
    model, (images, labels) = _model(), _pictures(16)
    how = AUGMENTATIONS["paper"]
    views, targets = training_views(model, images, labels, 3, how, 5, 9)
    again = training_views(model, images, labels, 3, how, 5, 9)
    assert torch.equal(views, again[0])
    assert torch.equal(targets, again[1])
    for seed, step in ((5, 10), (6, 9)):
        assert not torch.equal(views, training_views(model, images, labels, 3, how, seed, step)[0])
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(16))
    assert targets.min() >= 0.1 / 3 - 1e-6
    assert views.shape == (16, 3, 16, 16)


def test_no_augmentation_changes_nothing() -> None:
    model, (images, labels) = _model(), _pictures(8)
    views, targets = training_views(model, images, labels, 3, AUGMENTATIONS["none"], 0, 0)
    torch.testing.assert_close(views, model.normalize(images))
    assert torch.equal(targets, torch.eye(3)[labels])


def test_each_augmentation_acts_alone() -> None:
    model, (images, labels) = _model(), _pictures(32)
    plain = model.normalize(images)
    off = {"crop_scale": None, "operations": 0, "mixup": 0, "cutmix": 0, "erasing": 0, "label_smoothing": 0}
    for on in ({"crop_scale": (0.2, 1.0)}, {"operations": 2}, {"mixup": 0.8}, {"cutmix": 1.0}, {"erasing": 1.0}):
        views, targets = training_views(model, images, labels, 3, Augmentation(**(off | on)), 1, 1)
        assert not torch.equal(views, plain), on
        mixes = "mixup" in on or "cutmix" in on
        assert torch.equal(targets, torch.eye(3)[labels]) != mixes, on


def test_evaluation_resize_and_crop_equal_pillows() -> None:
    model, (images, _) = _model(), _pictures(2)
    found = evaluation_views(model, images, 20)
    for image, view in zip(images, found, strict=True):
        large = Image.fromarray(image).resize((20, 20), Image.Resampling.BICUBIC)
        wanted = model.normalize(np.array(large)[None, 2:18, 2:18])[0]
        assert (view - wanted).abs().max() < 2.5 / 255 / min(model.config.std)
    with pytest.raises(InputError, match="resized to 8"):
        evaluation_views(model, images, 8)


# -- lossy tokens -----------------------------------------------------------------------------------------------------


def test_quantisers_are_the_products_and_let_gradients_through() -> None:
    model = _model("factorized")
    images = model.normalize(_pictures(24)[0])
    float_tokens = model.token_grid(images).detach()
    codec = nec.EmbeddingCodec.fit(float_tokens.numpy())
    for quantize, wanted in (
        (bottleneck_quantizer(model), model.quantized(images)[:, 1:].detach()),
        (
            codec_quantizer(codec, 0.5),
            torch.from_numpy(codec.decode(codec.encode(float_tokens.numpy(), 0.5))).flatten(1, 2),
        ),
    ):
        source = TokenSource(model, quantize, fine_tune=True)
        tokens = source(images)
        torch.testing.assert_close(tokens, wanted, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(tokens, float_tokens.flatten(1, 2), atol=1e-3)
        weight = model.patch_embed.proj.weight
        push = torch.randn_like(tokens)
        found = torch.autograd.grad((tokens * push).sum(), weight)[0]
        straight = torch.autograd.grad((model.tokens(images)[:, 1:] * push).sum(), weight)[0]
        torch.testing.assert_close(found, straight)
        assert not TokenSource(model, quantize, fine_tune=False)(images).requires_grad


def test_quantised_tokens_reach_the_head() -> None:
    """A quantiser that wipes the tokens out leaves nothing to learn."""
    data = _pictures(60), _pictures(30, 1), _pictures(30, 2)
    wiped = train_arrays(*data, settings=QUICK, quantize=torch.zeros_like, fine_tune=False)
    assert (wiped.figures["confusion"].sum(axis=0) > 0).sum() == 1


def test_decoder_stage_is_trained() -> None:
    model = _model()
    result = train_online(model, _dataset(), settings=QUICK, with_decoder=True)
    assert _changed(_state(model.decoder_stage()), result.head.module.stage)
    images = np.zeros((90, 24, 24, 3), np.uint8)
    dataset = _dataset()
    dataset.images = images
    with pytest.raises(InputError, match="resize to 16"):
        train_online(model, dataset, settings=QUICK, with_decoder=True)


def test_the_head_of_a_frozen_model_predicts_from_embeddings_and_images(tmp_path: Path) -> None:
    model, dataset = _model(), _dataset()
    head = train_online(model, dataset, settings=QUICK, save=tmp_path / "head").head
    with torch.inference_mode():
        tokens = np.asarray(model.embed(model.normalize(dataset.images)))
    expected = head.predict(tokens)
    names = predict(tmp_path / "head", dataset, tmp_path / "out", model=model).predictions
    assert [row["class"] for row in names] == [dataset.class_names[label] for label in expected]
    larger = train_online(model, dataset, settings=HeadSettings(epochs=1, image_size=24)).head
    assert (head.grid, larger.grid) == ((2, 2), (3, 3))
    tuned = train_online(model, dataset, settings=QUICK, fine_tune=True).head
    with pytest.raises(InputError, match="fine-tuned"):
        tuned.predict(tokens)
    with pytest.raises(InputError, match="fine-tuned"):
        tuned.save(tmp_path / "tuned")


# -- limits and requests ----------------------------------------------------------------------------------------------


def test_time_limit_lowers_the_epochs() -> None:
    data = _pictures(64), _pictures(16, 1), _pictures(16, 2)
    result = train_arrays(*data, settings=HeadSettings(epochs=10**6, batch=16, time_limit=1e-3))
    assert result.epoch == 1


def test_several_seeds() -> None:
    report: HeadReport = train_online(_model(), _dataset(), settings=QUICK, seeds=2).report
    assert report.seeds == [0, 1]
    assert np.sum(report.figures["confusion"]) == 2 * report.test_images
    assert len(report.figures["top5_accuracies"]) == 2


def test_bad_requests() -> None:
    dataset = _dataset()
    with pytest.raises(InputError, match="no bottleneck"):
        bottleneck_quantizer(_model())
    with pytest.raises(InputError, match="no codec"):
        codec_quantizer(None)
    with pytest.raises(InputError, match="at least 1"):
        HeadSettings(epochs=0)
    with pytest.raises(InputError, match="'heavy': paper, light, none"):
        HeadSettings(augmentation="heavy")
    dataset.images = dataset.images[..., :1]
    with pytest.raises(InputError, match=r"000000 has 1 band"):
        train_online(_model(), dataset, settings=QUICK)
    dataset.labels = None
    with pytest.raises(InputError, match="no labels"):
        train_online(_model(), dataset, settings=QUICK)


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A model folder and a dataset `folder:` of 60 pictures."""
    folder = tmp_path_factory.mktemp("online")
    model = _model()
    model.codec = nec.EmbeddingCodec.fit(model.embed(model.normalize(_pictures(40)[0])))
    save_model(model, folder / "m")
    images, labels = _pictures(60)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        file = folder / "images" / f"class{label}" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return str(folder / "m"), f"folder:{folder / 'images'}"


@pytest.mark.parametrize(
    "options", [["--quantize", "codec", "--quality", "2"], ["--fine-tune", "--augment", "paper", "--with-decoder"]]
)
def test_command(on_disk: tuple[str, str], options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    model, dataset = on_disk
    arguments = ["classify", dataset, "--model", model, "--online", "--test-fraction", "0.3", "--epochs", "1", *options]
    assert main([*arguments, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert {"accuracy", "top5", "per_class", "train_images", "test_images", "bytes_per_image"} <= values.keys()
    assert values["source"] == ("fine-tune" if "--fine-tune" in options else "online")
    assert main(arguments) == 0
    assert "bytes an image file" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fine-tune"], "add --online"),
        (["--online"], "needs --model"),
        (["--online", "--model", "MODEL", "--head", "linear"], "--head linear"),
        (["--online", "--model", "MODEL", "--quality", "2"], "--quantize codec"),
        (["--online", "--model", "MODEL", "--quantize", "bottleneck"], "no bottleneck"),
        (["--online", "--model", "MODEL"], "--test-fraction"),
        (["--online", "--model", "MODEL", "--test-fraction", "0.3", "--image-size", "20"], "patch size"),
    ],
)
def test_command_refuses(
    on_disk: tuple[str, str], options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model, dataset = on_disk
    assert main(["classify", dataset, *(model if word == "MODEL" else word for word in options), "--json"]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


@pytest.mark.slow
def test_shipped_model_on_real_images(data_dir: Path) -> None:
    """240 EuroSAT images and two epochs: far above one in ten."""
    dataset = open_dataset(f"eurosat:{data_dir / 'EuroSAT_RGB.zip'}")
    rng = np.random.default_rng(0)
    parts = []
    for part, count in (("train", 240), ("val", 50), ("test", 150)):
        chosen = rng.permutation(dataset.indices(part))[:count]
        parts.append((dataset.load(chosen), dataset.labels[chosen]))
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    some = ArrayDataset(images, labels=labels, class_names=dataset.class_names)
    some.split = np.repeat(["train", "val", "test"], [240, 50, 150])
    settings = HeadSettings(epochs=2, batch=32)
    report = train_head(some, model="eurosat-tiny", online=True, fine_tune=True, settings=settings).report
    assert report.figures["accuracy"] > 0.3
