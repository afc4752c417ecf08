"""Original implementations with random weights, beside the networks of timm that shall do the same: small twins of each."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from beit3_truth import Musk
from conch_truth import Conch, ConchTower, ConchV15
from dino_truth import DinoTransformer
from random_weights import randomise
from swin_truth import CTransPath
from timm.layers import SwiGLUPacked, resample_abs_pos_embed
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

from spam.encoders.architectures import create
from spam.schemas.encoder_card import WeightLayout

WIDTH, DEPTH, HEADS = 24, 3, 3
NARROW = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
GATED = 64  # hidden width of the gated network: two thirds of 4 x 24, up to the next multiple of eight
GATED_KWARGS = {"mlp_ratio": 2 * GATED / WIDTH, "mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU}


@dataclasses.dataclass(frozen=True)
class Case:
    """An original with random weights: its file, what it makes of images, and the network that shall do the same."""

    layout: WeightLayout
    weights: dict[str, Any]
    truth: Callable[[Tensor], Tensor]
    network: nn.Module
    features: Callable[[Tensor], Tensor]
    px: int


def saved(model: nn.Module, folder: Path) -> dict[str, Tensor]:
    """Return the weights of a transformers model under the names that its published files have."""
    model.save_pretrained(folder)  # type: ignore[operator]
    return safetensors.torch.load_file(folder / "model.safetensors")


def vit(folder: Path) -> Case:
    config = ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        image_size=224,
        patch_size=16,
    )
    model = randomise(ViTModel(config))
    with torch.no_grad():  # tokens so small that the epsilon of the first normalisation shows
        for part in (model.embeddings.cls_token, model.embeddings.position_embeddings):
            part *= 1e-3
        for part in model.embeddings.patch_embeddings.parameters():
            part *= 1e-3
    network = create("spam/phikon_b16", NARROW)
    return Case(
        "vit",
        saved(model, folder),
        lambda x: model(x).last_hidden_state,
        network,
        network.forward_features,
        224,
    )


def dinov2(folder: Path, *, trained_px: int, patch_px: int, is_gated: bool) -> Case:
    config = Dinov2Config(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        image_size=trained_px,
        patch_size=patch_px,
        use_swiglu_ffn=is_gated,
    )
    model = randomise(Dinov2Model(config))
    name = "vit_giant_patch14_dinov2" if is_gated else "vit_large_patch16_224"
    kwargs = GATED_KWARGS if is_gated else {"init_values": 1e-5}
    network = timm.create_model(name, img_size=224, patch_size=patch_px, num_classes=0, **NARROW, **kwargs)
    return Case(
        "dinov2",
        saved(model, folder),
        lambda x: model(x).last_hidden_state,
        network,
        network.forward_features,
        224,
    )


def dinov2_with_registers(folder: Path, *, trained_px: int) -> Case:
    config = Dinov2WithRegistersConfig(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        image_size=trained_px,
        patch_size=14,
        use_swiglu_ffn=True,
        num_register_tokens=5,
    )
    model = randomise(Dinov2WithRegistersModel(config))
    network = timm.create_model(
        "vit_base_patch14_reg4_dinov2", img_size=224, num_classes=0, reg_tokens=5, **NARROW, **GATED_KWARGS
    )
    return Case(
        "dinov2",
        saved(model, folder),
        lambda x: model(x).last_hidden_state,
        network,
        network.forward_features,
        224,
    )


def dinov2_original(*, trained_px: int, n_chunks: int) -> Case:
    model = randomise(
        DinoTransformer(
            px=trained_px,
            patch_px=14,
            width=WIDTH,
            depth=DEPTH,
            n_heads=HEADS,
            hidden=4 * WIDTH,
            n_chunks=n_chunks,
        )
    )
    network = timm.create_model("vit_large_patch14_dinov2", img_size=224, num_classes=0, **NARROW)
    weights: dict[str, Any] = model.state_dict()
    if n_chunks:  # as a training run leaves it
        weights = {f"backbone.{name}": tensor for name, tensor in weights.items()}
        weights |= {
            "dino_head.mlp.0.weight": torch.zeros(2, 3),
            "ibot_head.last_layer.weight_g": torch.zeros(2),
        }
        weights = {"teacher": weights, "iteration": 5}
    return Case("dinov2-original", weights, model, network, network.forward_features, 224)


def dinov2_original_with_registers(*, trained_px: int) -> Case:
    model = randomise(
        DinoTransformer(
            px=trained_px,
            patch_px=14,
            width=WIDTH,
            depth=DEPTH,
            n_heads=HEADS,
            hidden=GATED,
            is_gated=True,
            n_registers=4,
            offset=0.0,
            is_antialiased=True,
        )
    )
    network = timm.create_model(
        "vit_giant_patch14_reg4_dinov2", img_size=224, num_classes=0, **NARROW, **GATED_KWARGS
    )
    return Case("dinov2-original", model.state_dict(), model, network, network.forward_features, 224)


def clip(folder: Path) -> Case:
    towers = {"num_hidden_layers": DEPTH, "num_attention_heads": HEADS, "hidden_size": WIDTH}
    config = CLIPConfig(
        vision_config={**towers, "intermediate_size": 4 * WIDTH, "image_size": 224, "patch_size": 32},
        text_config={
            **towers,
            "intermediate_size": 7,
            "vocab_size": 11,
            "bos_token_id": 0,
            "eos_token_id": 1,
        },
        projection_dim=17,
    )
    model = randomise(CLIPModel(config))
    network = create("spam/clip_vision_b32", {"dim": 17, **NARROW})

    def truth(images: Tensor) -> Tensor:
        return model.visual_projection(model.vision_model(images).pooler_output)

    return Case("clip", saved(model, folder), truth, network, network, 224)


def coca(*, trained_px: int) -> Case:
    def tower(px: int) -> Conch:
        trunk = timm.create_model("vit_base_patch16_224", img_size=px, num_classes=0, **NARROW)
        return Conch(ConchTower(trunk, width=WIDTH, dim=16, n_heads=8))

    published = randomise(tower(trained_px)).state_dict()
    model = tower(448).eval()
    fitted = dict(published)
    fitted["visual.trunk.pos_embed"] = resample_abs_pos_embed(  # upstream does it so on loading
        published["visual.trunk.pos_embed"], new_size=[28, 28], interpolation="bilinear", antialias=False
    )
    model.load_state_dict(fitted)
    network = create("spam/conch_b16", {"dim": 16, **NARROW})
    return Case("coca", published, model, network, network, 448)


def titan(*, trained_px: int) -> Case:
    trunk = DinoTransformer(
        px=trained_px,
        patch_px=16,
        width=WIDTH,
        depth=DEPTH,
        n_heads=HEADS,
        hidden=4 * WIDTH,
        has_mask_token=False,
    )
    model = randomise(ConchV15(trunk, width=WIDTH, dim=16, n_heads=8))
    network = create("spam/conch_l16", {"dim": 16, **NARROW})
    return Case("titan", model.state_dict(), model, network, network, 448)


def ctranspath() -> Case:
    depths, heads = (2, 2, 3, 2), (1, 2, 3, 4)
    model = randomise(CTransPath(width=WIDTH, depths=depths, n_heads=heads))
    network = create("spam/ctranspath", {"embed_dim": WIDTH, "depths": depths, "num_heads": heads})
    return Case("ctranspath", {"model": model.state_dict()}, model, network, network, 224)


def beit3(*, trained_px: int) -> Case:
    sizes = {"patch_px": 16, "width": WIDTH, "depth": DEPTH, "n_heads": HEADS, "hidden": 4 * WIDTH}
    published = randomise(Musk(px=trained_px, **sizes)).state_dict()
    fitted = dict(published)
    name = "beit3.encoder.embed_positions.A.weight"
    side = trained_px // 16
    if side != 24:  # upstream does it so on loading
        square = published[name][3:].reshape(1, side, side, WIDTH).permute(0, 3, 1, 2)
        square = nn.functional.interpolate(square, size=(24, 24), mode="bicubic", align_corners=False)
        fitted[name] = torch.cat([published[name][:3], square.permute(0, 2, 3, 1).reshape(-1, WIDTH)])
    model = Musk(px=384, **sizes).eval()
    model.load_state_dict(fitted)
    network = timm.create_model(
        "beit3_large_patch16_224", img_size=384, global_pool="token", num_classes=0, **NARROW
    )
    return Case("beit3", published, model, network, network, 384)


CASES: dict[str, Callable[[Path], Case]] = {
    "vit": vit,
    "dinov2 like Phikon-v2": lambda folder: dinov2(folder, trained_px=224, patch_px=16, is_gated=False),
    "dinov2 like Midnight": lambda folder: dinov2(folder, trained_px=224, patch_px=14, is_gated=True),
    "dinov2 of 518 px": lambda folder: dinov2(folder, trained_px=518, patch_px=14, is_gated=True),
    "dinov2 of 98 px": lambda folder: dinov2(folder, trained_px=98, patch_px=14, is_gated=False),
    "dinov2 like Hibou": lambda folder: dinov2_with_registers(folder, trained_px=224),
    "dinov2 with registers of 518 px": lambda folder: dinov2_with_registers(folder, trained_px=518),
    "dinov2-original like GPFM": lambda _: dinov2_original(trained_px=224, n_chunks=0),
    "dinov2-original of a training run": lambda _: dinov2_original(trained_px=224, n_chunks=3),
    "dinov2-original of 518 px": lambda _: dinov2_original(trained_px=518, n_chunks=1),
    "dinov2-original like OpenMidnight": lambda _: dinov2_original_with_registers(trained_px=224),
    "dinov2-original with registers of 518 px": lambda _: dinov2_original_with_registers(trained_px=518),
    "clip": clip,
    "coca": lambda _: coca(trained_px=448),
    "coca of 224 px": lambda _: coca(trained_px=224),
    "titan": lambda _: titan(trained_px=224),
    "titan of 448 px": lambda _: titan(trained_px=448),
    "ctranspath": lambda _: ctranspath(),
    "beit3": lambda _: beit3(trained_px=384),
    "beit3 of 224 px": lambda _: beit3(trained_px=224),
}
