"""Values that the paper's published code computed with small random-weight models (tests/fixtures/reference_nec)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import nec  # noqa: E402

FOLDER = Path(__file__).parents[1] / "fixtures" / "reference_nec"
CONFIG = FOLDER / "config.json"
# file -> prefix of its values
MODELS = {
    "mae.pt": "mae",
    "factorized.pt": "factorized",
    "factorized_as_trained.pt": "factorized",
    "hyperprior.pt": "hyperprior",
}


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "expected.npz") as file:
        return dict(file)


@pytest.fixture(scope="module", params=MODELS)
def named_model(request: pytest.FixtureRequest):
    return MODELS[request.param], nec.load_model(FOLDER / request.param, config=CONFIG)


def close(value, wanted: np.ndarray, absolute: float = 1e-5) -> None:
    np.testing.assert_allclose(value.detach().numpy(), wanted, rtol=0, atol=absolute)


def test_tokens_without_masking(named_model, expected) -> None:
    name, model = named_model
    images = torch.tensor(expected["images"])
    with torch.inference_mode():
        close(model.tokens(images), expected[f"{name}_latent"])
        embedded = model.token_grid(images)
    assert embedded.shape == (4, 4, 4, 48)
    close(embedded.flatten(1, 2), expected[f"{name}_latent"][:, 1:])


def test_masked_pass(named_model, expected) -> None:
    name, model = named_model
    with torch.inference_mode():
        out = model(torch.tensor(expected["images"]), mask_noise=torch.tensor(expected["mask_noise"]))
    close(out["latent"], expected[f"{name}_masked_latent"])
    np.testing.assert_array_equal(out["mask"], expected[f"{name}_mask"])
    if name == "mae":
        close(out["prediction"], expected["mae_pred"])
        assert out["recon_loss"].item() == pytest.approx(expected["mae_loss"], rel=1e-5)
        return
    for key in ("recon_loss", "bits", "aux_loss", "loss"):
        assert out[key].item() == pytest.approx(expected[f"{name}_{key}"], rel=1e-5), key


@pytest.mark.parametrize("file", ["factorized.pt", "factorized_as_trained.pt"])
def test_quantised_tokens_and_their_likelihoods(file: str, expected) -> None:
    model = nec.load_model(FOLDER / file, config=json.loads(CONFIG.read_text()))
    with torch.inference_mode():
        quantised = model.quantized(torch.tensor(expected["images"]))
        likelihoods = model.bottleneck.likelihoods(quantised)
    close(quantised, expected["factorized_quantized_embedding"])
    close(likelihoods, expected["factorized_likelihoods"])


def test_hyperprior(expected) -> None:
    model = nec.load_model(FOLDER / "hyperprior.pt", config=CONFIG)
    images = torch.tensor(expected["images"])
    prior = model.bottleneck
    with torch.inference_mode():
        latent = model.tokens(images)
        z = prior.hyper_latent(latent)
        scales = prior.scales(prior.entropy_bottleneck.quantize(z))
        quantised, likelihoods = prior(latent)
        close(model.quantized(images), expected["hyperprior_quantized_embedding"])
    close(z, expected["hyperprior_hyper_latent"])
    close(scales, expected["hyperprior_scales"])
    close(quantised, expected["hyperprior_quantized_embedding"])
    close(likelihoods["latent"], expected["hyperprior_likelihoods"])


@pytest.mark.parametrize("name", ["classifier", "classifier_with_decoder", "classifier_hyperprior"])
def test_classifiers(name: str, expected) -> None:
    classifier = nec.load_model(FOLDER / f"{name}.pt", config=CONFIG)
    assert not classifier.training
    with torch.inference_mode():
        close(classifier(torch.tensor(expected["images"])), expected[f"{name}_logits"])


def test_segmentation_backbone(expected) -> None:
    segmenter = nec.load_model(FOLDER / "segmenter_backbone.pt", config=CONFIG)
    images = torch.tensor(expected["images"])
    with torch.inference_mode():
        close(segmenter.features(images), expected["segmenter_features"])
    with pytest.raises(nec.InputError, match="no FCN heads"):
        segmenter(images)


def test_every_value_is_compared(expected) -> None:
    """A value that appears in the fixtures must appear in these tests; `uqe*` are a baseline's."""
    compared = {"images", "mask_noise", "mae_pred", "mae_loss", "factorized_likelihoods", "segmenter_features"}
    for name in ("mae", "factorized", "hyperprior"):
        compared |= {f"{name}_{key}" for key in ("latent", "masked_latent", "mask")}
    for name in ("factorized", "hyperprior"):
        compared |= {f"{name}_{key}" for key in ("recon_loss", "bits", "aux_loss", "loss", "quantized_embedding")}
    compared |= {f"hyperprior_{key}" for key in ("hyper_latent", "scales", "likelihoods")}
    compared |= {f"classifier{kind}_logits" for kind in ("", "_with_decoder", "_hyperprior")}
    assert {key for key in expected if not key.startswith("uqe") and not key.endswith("string_bytes")} == compared


def test_predicting_part_of_the_patches_gives_the_same_predictions(expected) -> None:
    """With every token decoded the loss is MAE's; the fraction's loss is that of a decoder fed those tokens alone."""
    model = nec.load_model(FOLDER / "mae.pt", config=CONFIG)
    images, noise = torch.tensor(expected["images"]), torch.tensor(expected["mask_noise"])
    with torch.inference_mode():
        half = model(images, noise, decoded_share=0.5)
        order = noise.argsort(dim=1)[:, : 4 + 6]
        prediction = model.reconstruct(half["latent"], order, (4, 4))[:, 4:]
        patches = model.patchify(images).gather(1, order[:, 4:, None].expand(-1, -1, 192))
    assert half["recon_loss"].item() == pytest.approx(((prediction - patches) ** 2).mean().item(), rel=1e-6)
    assert "prediction" not in half
