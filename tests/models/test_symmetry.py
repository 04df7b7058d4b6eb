"""The mean over symmetries of the square against plain NumPy, and what a group promises."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from nec import InputError
from nec.models import ModelConfig, NecModel, load_model, save_model
from nec.models.symmetry import GROUPS, symmetric_mean, turn, turn_back

SIZES = {
    "image_size": 16, "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2, "decoder_embed_dim": 8,
    "decoder_depth": 1, "decoder_num_heads": 2,
}  # fmt: skip


def model_of(symmetries: int) -> NecModel:
    torch.manual_seed(0)
    return NecModel(ModelConfig.from_dict(SIZES | {"symmetries": symmetries})).eval()


def numpy_turn(image: np.ndarray, index: int) -> np.ndarray:
    """(rows, columns, ...) turned by NumPy alone."""
    turned = np.rot90(image, index % 4)
    return np.fliplr(turned) if index >= 4 else turned


@pytest.mark.parametrize("index", range(8))
def test_turns_are_those_of_numpy_and_have_inverses(index: int) -> None:
    values = np.arange(2 * 3 * 5 * 2).reshape(2, 3, 5, 2)
    turned = turn(torch.from_numpy(values), index, (1, 2))
    np.testing.assert_array_equal(turned[1], numpy_turn(values[1], index))
    np.testing.assert_array_equal(turn_back(turned, index, (1, 2)), values)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_groups_are_groups(size: int) -> None:
    """Closed under composition, with the identity: else means over them would not turn with the image."""
    square = torch.arange(9).reshape(3, 3)
    members = {tuple(turn(square, g, (0, 1)).flatten().tolist()) for g in GROUPS[size]}
    assert len(members) == size
    assert tuple(range(9)) in members
    for first, second in itertools.product(GROUPS[size], repeat=2):
        both = turn(turn(square, first, (0, 1)), second, (0, 1))
        assert tuple(both.flatten().tolist()) in members


@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("shape", [(16, 16), (12, 20)])
def test_embeddings_are_means_over_the_group(size: int, shape: tuple[int, int]) -> None:
    images = torch.randn(3, 3, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = model_of(size).embed(images)
        expected = np.zeros_like(found)
        for index in {2: [0, 2], 4: [0, 1, 2, 3], 8: range(8)}[size]:
            turned = np.stack([numpy_turn(image.transpose(1, 2, 0), index) for image in images.numpy()])
            tokens = model_of(1).embed(torch.from_numpy(np.ascontiguousarray(turned.transpose(0, 3, 1, 2))))
            upright = tokens[:, :, ::-1] if index >= 4 else tokens
            expected += np.rot90(upright, -(index % 4), (1, 2)) / size
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("size", [2, 4, 8])
def test_embeddings_turn_with_the_image(size: int) -> None:
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    plain, symmetric = model_of(1), model_of(size)
    with torch.no_grad():
        for index in GROUPS[size][1:]:
            turned = turn(images, index, (2, 3))
            torch.testing.assert_close(
                symmetric.token_grid(turned), turn(symmetric.token_grid(images), index, (1, 2)), atol=1e-5, rtol=0
            )
            upright = turn(plain.token_grid(images), index, (1, 2))
            assert not torch.allclose(plain.token_grid(turned), upright, atol=1e-2)


def test_means_of_what_is_symmetric_already_change_nothing() -> None:
    def brightness(images: torch.Tensor) -> torch.Tensor:
        return images.permute(0, 2, 3, 1).cumsum(-1)

    images = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(symmetric_mean(brightness, images, GROUPS[8]), brightness(images))


@pytest.mark.parametrize("wrong", [0, 3, 16, True, "8"])
def test_other_numbers_are_refused(wrong: object) -> None:
    with pytest.raises(InputError, match="1, 2, 4 or 8"):
        ModelConfig.from_dict(SIZES | {"symmetries": wrong})


def test_a_model_folder_keeps_them_and_its_identity_tells(tmp_path: Path) -> None:
    model = model_of(8)
    save_model(model, tmp_path / "symmetric", half=False)
    model.config = replace(model.config, symmetries=1)
    save_model(model, tmp_path / "plain", half=False)
    symmetric, plain = load_model(tmp_path / "symmetric"), load_model(tmp_path / "plain")
    assert symmetric.config.symmetries == 8
    assert symmetric.sha256 == plain.sha256  # the weights are the same
    assert symmetric.identity == {"name": "symmetric", "sha256": plain.sha256, "symmetries": 8}
    assert plain.identity == {"name": "plain", "sha256": plain.sha256}
