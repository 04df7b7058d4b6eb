"""Masked autoencoder (He et al. 2022), with an entropy bottleneck on its tokens (Gomes & Brunschwiler 2024) or not."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from nec.errors import InputError
from nec.models.backbone import Backbone, Pixels
from nec.models.bottleneck import Bottleneck, FactorizedBottleneck, HyperpriorBottleneck
from nec.models.codec_bottleneck import CodecBottleneck
from nec.models.config import ModelConfig
from nec.models.devices import normalize, to_arrays
from nec.models.symmetry import GROUPS, symmetric_mean
from nec.models.vit import Block, PatchEmbed, resize_positions, sincos_positions

if TYPE_CHECKING:
    from nec.codec import EmbeddingCodec

MASK_RATIO = 0.75


class DecoderStage(nn.Module):
    """The first stage of an MAE's decoder, which `--with-decoder` trains with the head on the consumer's side.

    Tokens (n, y*x, d), no CLS -> (n, y*x, e): linear embedding, positions, one transformer block.
    """

    positions: Tensor

    def __init__(self, embed: nn.Linear, block: Block, positions: Tensor) -> None:
        super().__init__()
        self.embed = embed
        self.block = block
        self.register_buffer("positions", positions)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.block(self.embed(tokens) + self.positions)

    def on_grid(self, grid: tuple[int, int]) -> DecoderStage:
        """A copy for tokens of another grid (y, x), whose positions are interpolated as the model's own are."""
        copied = copy.deepcopy(self)
        side = math.isqrt(self.positions.shape[1])  # a model's native grid is square
        with_cls = F.pad(self.positions, (0, 0, 1, 0))
        copied.positions = resize_positions(with_cls, (side, side), grid)[:, 1:].contiguous()
        return copied


class NecModel(nn.Module, Backbone):
    """A masked autoencoder whose tokens a bottleneck may quantise and rate. Parameter names as in MAE checkpoints.

    As a `Backbone` it takes images of any size that its patches divide, whose positions it interpolates.

    `config.kind` "mae" has no bottleneck; "factorized" and "hyperprior" add `bottleneck`; "hierarchical" gets it from
    its codec by `use_codec`.
    `config.decoder_depth` 0: an encoder alone.
    """

    any_size = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.name = ""
        self.sha256 = ""
        self.codec: EmbeddingCodec | None = None
        c = config
        self.patch_embed = PatchEmbed(c.patch_size, c.in_channels, c.embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, c.embed_dim))
        self.pos_embed = nn.Parameter(sincos_positions(c.embed_dim, c.grid), requires_grad=False)
        self.blocks = nn.ModuleList(Block(c.embed_dim, c.num_heads, c.mlp_ratio) for _ in range(c.depth))
        self.norm = nn.LayerNorm(c.embed_dim, eps=1e-6)
        self.bottleneck: Bottleneck | CodecBottleneck | None = _bottleneck(c)
        if c.decoder_depth:
            self._add_decoder()
        self._initialise()

    def _add_decoder(self) -> None:
        c = self.config
        self.decoder_embed = nn.Linear(c.embed_dim, c.decoder_embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, c.decoder_embed_dim))
        self.decoder_pos_embed = nn.Parameter(sincos_positions(c.decoder_embed_dim, c.grid), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(
            Block(c.decoder_embed_dim, c.decoder_num_heads, c.mlp_ratio) for _ in range(c.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(c.decoder_embed_dim, eps=1e-6)
        self.decoder_pred = nn.Linear(c.decoder_embed_dim, c.patch_size**2 * c.in_channels)

    def _initialise(self) -> None:
        """MAE's initialisation: Xavier for linear layers (and the patch projection as one), 0.02 for the tokens."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.view(self.config.embed_dim, -1))
        nn.init.normal_(self.cls_token, std=0.02)
        if self.config.decoder_depth:
            nn.init.normal_(self.mask_token, std=0.02)
        if isinstance(self.bottleneck, HyperpriorBottleneck):
            self.bottleneck.initialise_scales()

    def use_codec(self, codec: EmbeddingCodec) -> None:
        """Take a fitted pyramid codec as the model's codec and, in its differentiable form, as its bottleneck."""
        self.codec, self.bottleneck = codec, CodecBottleneck(codec)
        self.bottleneck.train(self.training)

    # -- as a backbone --------------------------------------------------------------------------------------------

    @property
    def identity(self) -> dict[str, Any]:
        """What tells its embeddings from others: name, sha256 of the weights, symmetries and precision if any."""
        found: dict[str, Any] = {"name": self.name, "sha256": self.sha256}
        if self.config.symmetries != 1:
            found["symmetries"] = self.config.symmetries
        return found if self.precision == "fp32" else found | {"precision": self.precision}

    @property
    def fingerprint(self) -> str:
        """What decides its embeddings, in one word: sha256 of the weights, with the number of symmetries if any."""
        rest = [self.config.symmetries] * (self.config.symmetries != 1) + [self.precision] * (self.precision != "fp32")
        return "-".join([self.sha256, *map(str, rest)])

    @property
    def dimensions(self) -> int:
        return self.config.embed_dim

    @property
    def patch(self) -> tuple[int, int]:
        return self.config.patch_size, self.config.patch_size

    @property
    def pixels(self) -> Pixels:
        c = self.config
        return Pixels(c.mean, c.std, c.bands, c.reflectance)

    @property
    def input_size(self) -> tuple[int, int]:
        return self.config.image_size, self.config.image_size

    @property
    def device(self) -> str:  # type: ignore[override]
        return str(self.cls_token.device)

    def symmetric(self, symmetries: int) -> NecModel:
        """This model, the same weights, with embeddings that are means over so many symmetries; without a codec."""
        turned = copy.copy(self)
        turned.config, turned.codec = replace(self.config, symmetries=symmetries), None
        return turned

    def normalize(self, images: NDArray[Any] | Tensor) -> Tensor:
        """Images (n, h, w, c), uint8 or already scaled to 0..1 -> float32 (n, c, h, w) as the model expects them."""
        return normalize(images, self.pixels, self.cls_token.device)

    def embed(self, images: NDArray[np.float32] | Tensor) -> NDArray[np.float32]:
        """Normalised images (n, c, h, w) -> unquantised embeddings (n, y, x, d); `token_grid` with gradients."""
        return to_arrays(self.token_grid, images, self.device, self.precision)

    # -- images ---------------------------------------------------------------------------------------------------

    def grid_of(self, images: Tensor) -> tuple[int, int]:
        """Token grid (y, x) of images (n, c, h, w); InputError if they do not fit the patch size or band count."""
        patch = self.config.patch_size
        if images.ndim != 4 or images.shape[1] != self.config.in_channels:
            raise InputError(
                f"images have shape {tuple(images.shape)}; this model takes (n, {self.config.in_channels}, h, w)"
            )
        height, width = images.shape[2:]
        if height % patch or width % patch or not height or not width:
            raise InputError(f"images of {height}x{width} pixels are not a multiple of the patch size {patch}")
        return height // patch, width // patch

    def patchify(self, images: Tensor) -> Tensor:
        """Images (n, c, h, w) -> patches (n, y*x, p*p*c), each patch in (row, column, band) order."""
        p = self.config.patch_size
        y, x = self.grid_of(images)
        patches = images.reshape(images.shape[0], self.config.in_channels, y, p, x, p)
        return patches.permute(0, 2, 4, 3, 5, 1).reshape(images.shape[0], y * x, -1)

    def unpatchify(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """Inverse of `patchify` for a token `grid` (y, x)."""
        p, c = self.config.patch_size, self.config.in_channels
        y, x = grid
        images = patches.reshape(patches.shape[0], y, x, p, p, c).permute(0, 5, 1, 3, 2, 4)
        return images.reshape(patches.shape[0], c, y * p, x * p)

    # -- encoder --------------------------------------------------------------------------------------------------

    def tokens(self, images: Tensor, keep: Tensor | None = None, cls: bool = True) -> Tensor:
        """Encoder output (n, 1 + kept, d), CLS first. `keep` (n, kept): indices of the tokens to keep, None all.

        `cls` False: without CLS, (n, kept, d), which the other tokens do not see either.
        """
        positions = resize_positions(self.pos_embed, self.config.grid, self.grid_of(images))
        x = self.patch_embed(images) + positions[:, 1:]
        if keep is not None:
            x = take_tokens(x, keep)
        if cls:
            first = (self.cls_token + positions[:, :1]).expand(x.shape[0], -1, -1)
            x = torch.cat([first, x], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def token_grid(self, images: Tensor) -> Tensor:
        """Normalised images (n, c, h, w) -> unquantised embeddings (n, y, x, d), without CLS.

        Means over the symmetries that the configuration names: that many passes.
        """
        if self.config.symmetries == 1:
            return self._patch_tokens(images)
        return symmetric_mean(self._patch_tokens, images, GROUPS[self.config.symmetries])

    def _patch_tokens(self, images: Tensor) -> Tensor:
        return self.tokens(images)[:, 1:].unflatten(1, self.grid_of(images))

    def quantized(self, images: Tensor) -> Tensor:
        """Dequantised tokens (n, 1 + y*x, d), CLS first, rounded as at test time. Needs a bottleneck.

        Of kind "hierarchical" at quality 1, and CLS, which that does not code, as it is.
        """
        bottleneck, tokens = self._need_bottleneck(), self.tokens(images)
        if not isinstance(bottleneck, CodecBottleneck):
            return bottleneck(tokens)[0]
        coded = bottleneck(self.token_grid(images), tokens.new_zeros(len(tokens)))
        return torch.cat([tokens[:, :1], coded.tokens.flatten(1, 2)], dim=1)

    def _need_bottleneck(self) -> Bottleneck | CodecBottleneck:
        if self.bottleneck is None:
            raise InputError("this model has no bottleneck: adapt it first (nec adapt), or use embed() and a codec")
        return self.bottleneck

    def _need_decoder(self) -> None:
        if not self.config.decoder_depth:
            raise InputError("this model is an encoder alone; what was asked for needs an MAE's decoder")

    # -- decoder --------------------------------------------------------------------------------------------------

    def reconstruct(self, latent: Tensor, order: Tensor, grid: tuple[int, int], cls: bool = True) -> Tensor:
        """Latent (n, 1 + kept, d) -> predicted patches (n, m, p*p*c) of the tokens `order` (n, m), kept ones first.

        `cls` False: the latent is (n, kept, d), and CLS is masked as the removed tokens are.
        """
        self._need_decoder()
        x = self.decoder_embed(latent)
        if not cls:
            x = torch.cat([self.mask_token.to(x.dtype).expand(x.shape[0], 1, -1), x], dim=1)
        masked = self.mask_token.to(x.dtype).expand(x.shape[0], order.shape[1] + 1 - x.shape[1], -1)
        positions = resize_positions(self.decoder_pos_embed, self.config.grid, grid).expand(x.shape[0], -1, -1)
        places = torch.cat([positions[:, :1], take_tokens(positions[:, 1:], order)], dim=1)
        x = torch.cat([x, masked], dim=1) + places
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))[:, 1:]

    def target(self, images: Tensor) -> Tensor:
        """What the decoder predicts: patches (n, y*x, p*p*c), each normalised if the config says `norm_pix_loss`."""
        patches = self.patchify(images)
        if not self.config.norm_pix_loss:
            return patches
        mean = patches.mean(dim=-1, keepdim=True)
        return (patches - mean) / (patches.var(dim=-1, keepdim=True) + 1e-6).sqrt()

    def decoder_stage(self) -> DecoderStage:
        """A trainable copy of the decoder's first stage, for heads on tokens at the native grid."""
        self._need_decoder()
        stage = DecoderStage(
            nn.Linear(self.config.embed_dim, self.config.decoder_embed_dim),
            Block(self.config.decoder_embed_dim, self.config.decoder_num_heads, self.config.mlp_ratio),
            self.decoder_pos_embed[:, 1:].detach().clone(),
        )
        stage.embed.load_state_dict(self.decoder_embed.state_dict())
        stage.block.load_state_dict(self.decoder_blocks[0].state_dict())
        return stage

    # -- the whole ------------------------------------------------------------------------------------------------

    def forward(
        self,
        images: Tensor,
        mask_noise: Tensor | None = None,
        noise: dict[str, Tensor] | None = None,
        decoded_share: float = 1.0,
        change: Tensor | None = None,
    ) -> dict[str, Any]:
        """One masked pass over normalised images (n, c, h, w).

        Args:
            mask_noise: (n, y*x) uniform noise whose order decides which quarter of the tokens is kept; drawn if None.
            noise: uniform in -0.5..0.5, added instead of rounding while training, by the names and (behind the batch
                axis) the shapes of `bottleneck.noise_shapes(1 + kept)`; drawn if None.
            decoded_share: share of the masked tokens that the decoder predicts and the loss covers. Less than 1 saves
                time in training at little cost (Fu et al. 2024); then there is no `prediction`.
            change: of kind "hierarchical", what coding adds to each token (n, y*x, d). A pyramid needs whole grids, so
                this comes from a pass that is not masked; if None that is made here, at quality 1, and adds `bits`.

        Returns:
            latent (n, 1 + kept, d; CLS first, before quantisation), mask (n, y*x; 0 kept, 1 removed), prediction
            (n, y*x, p*p*c), recon_losses (mean squared error over each image's masked patches), recon_loss (their
            mean), and with a bottleneck
            likelihoods (like latent), hyper_likelihoods (n, 1 + kept, hyper_channels) if there is a hyper-latent,
            bits (summed over the batch, CLS and hyper-latent included), aux_loss and
            loss = lmbda * recon_loss + bits (the published code's).
        """
        grid = self.grid_of(images)
        if mask_noise is None:
            mask_noise = torch.rand(images.shape[0], grid[0] * grid[1], device=images.device)
        order, kept = mask_noise.argsort(dim=1), int(mask_noise.shape[1] * (1 - MASK_RATIO))
        restore = order.argsort(dim=1)
        latent = self.tokens(images, order[:, :kept])
        result: dict[str, Any] = {"latent": latent, "mask": (restore >= kept).to(images.dtype)}
        decoded, cls = latent, True
        if isinstance(self.bottleneck, CodecBottleneck):
            if change is None:
                tokens = self.token_grid(images)
                coded = self.bottleneck(tokens, tokens.new_zeros(len(tokens)))
                change, result["bits"] = (coded.tokens - tokens).flatten(1, 2), coded.bits.sum()
            # CLS is in no product: a decoder that sees it would let the tokens do without what it holds.
            decoded, cls = latent[:, 1:] + take_tokens(change, order[:, :kept]), False
        elif self.bottleneck is not None:
            decoded, likelihoods = self.bottleneck(latent, noise)
            result |= {"likelihoods": likelihoods["latent"], "aux_loss": self.bottleneck.aux_loss()}
            result["bits"] = sum(-part.log2().sum() for part in likelihoods.values())
            if "hyper" in likelihoods:
                result["hyper_likelihoods"] = likelihoods["hyper"]
        order = order[:, : kept + round((order.shape[1] - kept) * decoded_share)]
        prediction = self.reconstruct(decoded, order, grid, cls)
        target = take_tokens(self.target(images), order[:, kept:])
        result["recon_losses"] = (prediction[:, kept:].float() - target).square().mean(dim=(1, 2))
        result["recon_loss"] = result["recon_losses"].mean()
        if order.shape == restore.shape:
            result["prediction"] = take_tokens(prediction, restore)
        if "bits" in result:
            result["loss"] = self.config.lmbda * result["recon_loss"] + result["bits"]
        return result


def _bottleneck(config: ModelConfig) -> Bottleneck | None:
    if config.kind in ("mae", "hierarchical"):
        return None
    if config.kind == "factorized":
        return FactorizedBottleneck(config.embed_dim)
    return HyperpriorBottleneck(config.embed_dim, config.hyper_channels, config.hyper_heads)


def take_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """Tokens (n, l, d) picked and ordered by `index` (n, m) -> (n, m, d)."""
    return tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))
