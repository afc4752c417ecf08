"""From a file on the Hub to features: for each kind of file that encoders are published as, with small random weights."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from beit3_truth import Musk
from conch_truth import Conch, ConchTower, ConchV15
from dino_truth import DinoTransformer
from genbio_truth import GenBio
from hub_models import HubModels
from random_weights import randomise
from swin_truth import CTransPath
from timm.layers import SwiGLUPacked
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    ViTConfig,
    ViTModel,
)

from spam.encoders import build_encoder, encoder_card
from spam.encoders.published_weights import to_timm
from spam.encoders.timm_models import create_network
from spam.errors import EncoderError
from spam.schemas.encoder_card import EncoderCard

CPU = torch.device("cpu")
CLOSE = 2e-5  # float32 after a few layers; features are of about one
WIDTH, DEPTH, HEADS = 24, 2, 3
NARROW = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
TRANSFORMERS = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS}
GATED = 64  # two thirds of four times the width, up to a multiple of eight
GATED_KWARGS = {"mlp_ratio": 2 * GATED / WIDTH, "mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}


@dataclasses.dataclass(frozen=True)
class Published:
    """The published files, and the features that the original implementation computes from normalised images."""

    name: str  # of the card
    kwargs: dict[str, Any]  # what makes it small
    dim: int
    file: str
    content: dict[str, Any]
    truth: Callable[[Tensor], Tensor]


def written_by_transformers(model: Any, folder: Path) -> dict[str, Tensor]:
    """Return weights under the names that the library's files have, which are not those of its modules."""
    model.save_pretrained(folder / "saved")
    return safetensors.torch.load_file(folder / "saved" / "model.safetensors")


def timm_safetensors(folder: Path) -> Published:
    model: Any = randomise(timm.create_model("vit_base_patch16_224", num_classes=0, **NARROW))
    return Published("kaiko_b16", NARROW, WIDTH, "model.safetensors", model.state_dict(), model)


def timm_pickle_with_registers(folder: Path) -> Published:
    layers = {**GATED_KWARGS, "mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}
    model: Any = timm.create_model(
        "vit_giant_patch14_224",
        num_classes=0,
        init_values=1e-5,
        no_embed_class=True,
        reg_tokens=8,
        **NARROW,
        **layers,
    )
    randomise(model)
    kwargs = {**NARROW, **GATED_KWARGS}
    return Published("uni2_h", kwargs, WIDTH, "pytorch_model.bin", model.state_dict(), model)


def timm_with_classifier(folder: Path) -> Published:
    kwargs = {"layers": (1, 1, 1, 1), "channels": (4, 6, 8, 10)}
    model: Any = randomise(timm.create_model("resnet50", num_classes=1000, **kwargs))
    return Published(
        "resnet50",
        kwargs,
        40,
        "model.safetensors",
        model.state_dict(),
        lambda x: model.forward_features(x).mean((2, 3)),
    )


def transformers_vit(folder: Path) -> Published:
    config = ViTConfig(**TRANSFORMERS, intermediate_size=4 * WIDTH, image_size=224, patch_size=16)
    model = randomise(ViTModel(config))
    weights = written_by_transformers(model, folder)
    return Published(
        "phikon", NARROW, WIDTH, "model.safetensors", weights, lambda x: model(x).last_hidden_state[:, 0]
    )


def transformers_dinov2(folder: Path) -> Published:
    model = randomise(
        Dinov2Model(Dinov2Config(**TRANSFORMERS, image_size=518, patch_size=14, use_swiglu_ffn=True))
    )

    def truth(images: Tensor) -> Tensor:
        tokens = model(images).last_hidden_state
        return torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], dim=1)

    weights = written_by_transformers(model, folder)
    return Published("midnight", {**NARROW, **GATED_KWARGS}, 2 * WIDTH, "model.safetensors", weights, truth)


def transformers_with_registers_as_pickle(folder: Path) -> Published:
    config = Dinov2WithRegistersConfig(
        **TRANSFORMERS, image_size=224, patch_size=14, use_swiglu_ffn=True, num_register_tokens=4
    )
    model = randomise(Dinov2WithRegistersModel(config))
    weights = written_by_transformers(model, folder)
    return Published(
        "hibou_b",
        {**NARROW, **GATED_KWARGS},
        WIDTH,
        "pytorch_model.bin",
        weights,
        lambda x: model(x).pooler_output,
    )


def transformers_clip(folder: Path) -> Published:
    towers = {**TRANSFORMERS, "intermediate_size": 4 * WIDTH}
    texts = {"vocab_size": 11, "bos_token_id": 0, "eos_token_id": 1}
    config = CLIPConfig(
        vision_config={**towers, "image_size": 224, "patch_size": 32},
        text_config={**towers, **texts},
        projection_dim=17,
    )
    model = randomise(CLIPModel(config))
    weights = written_by_transformers(model, folder)

    def truth(images: Tensor) -> Tensor:
        return model.visual_projection(model.vision_model(images).pooler_output)

    return Published("plip", {**NARROW, "dim": 17}, 17, "pytorch_model.bin", weights, truth)


def dinov2_training_run(folder: Path) -> Published:
    sizes = {"px": 518, "patch_px": 14, "width": WIDTH, "depth": DEPTH, "n_heads": HEADS, "hidden": 4 * WIDTH}
    model = randomise(DinoTransformer(**sizes, n_chunks=2))
    teacher = {f"backbone.{name}": tensor for name, tensor in model.state_dict().items()}
    teacher["dino_head.mlp.0.weight"] = torch.zeros(2, 3)
    content = {"teacher": teacher, "iteration": 5}
    return Published("gpfm", NARROW, WIDTH, "GPFM.pth", content, lambda x: model(x)[:, 0])


def dinov2_with_registers(folder: Path) -> Published:
    sizes = {"px": 518, "patch_px": 14, "width": WIDTH, "depth": DEPTH, "n_heads": HEADS, "hidden": GATED}
    model = randomise(DinoTransformer(**sizes, is_gated=True, n_registers=4, offset=0.0, is_antialiased=True))
    kwargs = {**NARROW, **GATED_KWARGS}
    return Published(
        "openmidnight",
        kwargs,
        WIDTH,
        "teacher_checkpoint_load.pt",
        dict(model.state_dict()),
        lambda x: model(x)[:, 0],
    )


def open_clip_coca(folder: Path) -> Published:
    trunk = timm.create_model("vit_base_patch16_224", img_size=448, num_classes=0, **NARROW)
    model = randomise(Conch(ConchTower(trunk, width=WIDTH, dim=16, n_heads=8)))
    return Published("conch_v1", {**NARROW, "dim": 16}, 16, "pytorch_model.bin", model.state_dict(), model)


def titan_tower(folder: Path) -> Published:
    sizes = {"px": 224, "patch_px": 16, "width": WIDTH, "depth": DEPTH, "n_heads": HEADS, "hidden": 4 * WIDTH}
    trunk = DinoTransformer(**sizes, has_mask_token=False)
    model = randomise(ConchV15(trunk, width=WIDTH, dim=16, n_heads=8))
    kwargs = {**NARROW, "dim": 16}
    return Published("conch_v1_5", kwargs, 16, "pytorch_model_vision.bin", model.state_dict(), model)


def swin_of_old_timm(folder: Path) -> Published:
    depths, heads = (1, 2, 1, 1), (1, 2, 3, 4)
    model = randomise(CTransPath(width=WIDTH, depths=depths, n_heads=heads))
    kwargs = {"embed_dim": WIDTH, "depths": depths, "num_heads": heads}
    return Published("ctranspath", kwargs, 8 * WIDTH, "model.safetensors", model.state_dict(), model)


def beit3(folder: Path) -> Published:
    sizes = {"px": 384, "patch_px": 16, "width": WIDTH, "depth": DEPTH, "n_heads": HEADS, "hidden": 4 * WIDTH}
    model = randomise(Musk(**sizes))
    return Published("musk", NARROW, WIDTH, "model.safetensors", model.state_dict(), model)


def genbio(folder: Path) -> Published:
    model = randomise(GenBio(width=WIDTH, depth=DEPTH, n_heads=HEADS, hidden=GATED))
    return Published("genbio_pathfm", NARROW, 3 * WIDTH, "model.pth", dict(model.state_dict()), model)


KINDS = (
    timm_safetensors,
    timm_pickle_with_registers,
    timm_with_classifier,
    transformers_vit,
    transformers_dinov2,
    transformers_with_registers_as_pickle,
    transformers_clip,
    dinov2_training_run,
    dinov2_with_registers,
    open_clip_coca,
    titan_tower,
    swin_of_old_timm,
    beit3,
    genbio,
)


def upload(hub: HubModels, published: Published) -> EncoderCard:
    """Put a file where a card looks for it, and narrow the card to it."""
    card = encoder_card(published.name)
    place = hub.folder / card.source.removeprefix("hf-hub:")
    place.mkdir(parents=True)
    if published.file.endswith(".safetensors"):
        plain = {name: tensor.contiguous().clone() for name, tensor in published.content.items()}
        safetensors.torch.save_file(plain, place / published.file)
    else:
        torch.save(published.content, place / published.file)
    assert card.revision
    hub.revisions.add(card.revision)
    kwargs = tuple({**dict(card.kwargs), **published.kwargs}.items())
    return dataclasses.replace(card, kwargs=kwargs, dim=published.dim)


def some_tiles(px: int) -> np.ndarray:
    """Make two tiles of smooth colours with noise on them, a dark one and a bright one."""
    generator = torch.Generator().manual_seed(px)
    colours = torch.rand(2, 3, 5, 5, generator=generator)
    smooth = nn.functional.interpolate(colours, size=(px, px), mode="bilinear")
    noisy = 0.8 * smooth + 0.2 * torch.rand(2, 3, px, px, generator=generator)
    scaled = noisy * torch.tensor([90.0, 255.0]).reshape(2, 1, 1, 1)
    return scaled.permute(0, 2, 3, 1).contiguous().to(torch.uint8).numpy()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_features_are_those_of_the_original_implementation(
    hub: HubModels, tmp_path: Path, kind: Callable[[Path], Published]
) -> None:
    published = kind(tmp_path)
    card = upload(hub, published)
    tiles = some_tiles(card.input_px)
    features = build_encoder(card, device=CPU).embed(tiles)
    scaled = (tiles / 255.0 - np.array(card.mean)) / np.array(card.std)
    with torch.inference_mode():
        expected = published.truth(torch.from_numpy(scaled.transpose(0, 3, 1, 2).astype(np.float32))).numpy()
    assert features.shape == expected.shape == (2, published.dim)
    assert np.abs(expected[0] - expected[1]).max() > 100 * CLOSE  # the tiles do make a difference
    np.testing.assert_allclose(features, expected, rtol=CLOSE, atol=CLOSE)
    # Of the repository, one file was fetched, at the pinned commit.
    (fetched,) = {exchange.path for exchange in hub.requests if exchange.path.startswith("/cdn")}
    assert Path(fetched).name == published.file
    assert {path.split("/")[4] for path in hub.asked} == {card.revision}


# A weight that a layout renames, splits or stacks, and how the message names it.
RENAMED = {
    transformers_vit: "encoder.layer.1.attention.attention.key.weight",
    transformers_dinov2: "encoder.layer.1.mlp.weights_in.weight",
    transformers_clip: "vision_model.embeddings.class_embedding",
    timm_pickle_with_registers: "blocks.1.mlp.fc2.weight",
    dinov2_with_registers: "blocks.1.mlp.w12.weight",
    open_clip_coca: "visual.attn_pool_contrast.attn.in_proj_bias",
    titan_tower: "attn_pool_contrast.to_kv.weight",
    swin_of_old_timm: "layers.1.downsample.reduction.weight",
    beit3: "beit3.encoder.layers.1.self_attn.inner_attn_ln.A.bias",
    genbio: "blocks.1.mlp.w2.weight",
}


@pytest.mark.parametrize("kind", RENAMED, ids=lambda kind: kind.__name__)
def test_all_weights_that_do_not_fit_are_named(
    hub: HubModels, tmp_path: Path, kind: Callable[[Path], Published]
) -> None:
    published, name = kind(tmp_path), RENAMED[kind]
    weights = dict(published.content)
    patches = next(
        name
        for name in weights
        if re.search(r"patch_embed\w*\.(proj|projection|weight)|vision_embed.proj", name)
    )
    weights["blocks.99.other.weight"] = weights.pop(name)
    weights[patches] = weights[patches][1:]
    card = upload(hub, dataclasses.replace(published, content=weights))
    with pytest.raises(EncoderError, match=re.escape(card.name)) as caught:
        build_encoder(card, device=CPU)
    rewritten = name.replace("weights_in", "fc1").replace("w12", "fc1")
    assert all(part in str(caught.value) for part in (rewritten, "blocks.99.other.weight"))
    assert card.layout == "timm" or f"{patches!r} {tuple(weights[patches].shape)}" in str(caught.value)


def narrow(name: str) -> EncoderCard:
    card = encoder_card(name)
    return dataclasses.replace(card, kwargs=tuple({**dict(card.kwargs), **NARROW}.items()))


@pytest.mark.parametrize(
    "odd",
    [torch.zeros(()), torch.zeros(1, 12, WIDTH), torch.zeros(2, 5, WIDTH), torch.zeros(1, 50, WIDTH + 1)],
)
def test_positions_that_cannot_be_resampled_are_named(tmp_path: Path, odd: Tensor) -> None:
    card, weights = narrow("gpfm"), dinov2_training_run(tmp_path).content["teacher"]
    with pytest.raises(EncoderError, match=r"'backbone.pos_embed' .*expected \(1, 257, 24\)"):
        to_timm(card, {**weights, "backbone.pos_embed": odd}, create_network(card))


def test_a_repeated_name_and_plain_values_are_unexpected(tmp_path: Path) -> None:
    card, weights = narrow("gpfm"), dinov2_training_run(tmp_path).content["teacher"]
    more = {"norm.weight": torch.zeros(WIDTH), "epoch": 3}
    with pytest.raises(EncoderError, match=r"unexpected: 'norm.weight', 'epoch'\."):
        to_timm(card, {**weights, **more}, create_network(card))


def test_a_wrong_architecture_names_some_faults_and_counts_the_rest(tmp_path: Path) -> None:
    card = dataclasses.replace(encoder_card("kaiko_s16"), layout="ctranspath")
    with pytest.raises(
        EncoderError, match=r"missing: 'cls_token'.* and \d+ more; unexpected: .* and \d+ more"
    ):
        to_timm(card, titan_tower(tmp_path).content, create_network(card))
