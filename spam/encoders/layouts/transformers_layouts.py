"""Layouts of networks that were published by the library transformers, whose modules name the weights.

The names are those of the published files, which transformers translates to its own newer ones on loading
(`transformers/conversion_mapping.py`, version 5).

Not verified on the published files, for which we went by the library and by public descriptions: that Phikon's configuration
keeps the library's epsilon and has no other extras than a pooler; and the image size that the position embeddings of
Phikon-v2 and Midnight are for, which are resampled if it is another.
"""

from .layout import Layout
from .positions import Resampling

__all__ = ["CLIP", "DINOV2", "VIT"]

VIT = Layout(
    names={
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj.{p}": "embeddings.patch_embeddings.projection.{p}",
        "blocks.{n}.norm1.{p}": "encoder.layer.{n}.layernorm_before.{p}",
        "blocks.{n}.attn.qkv.{p}": (
            "encoder.layer.{n}.attention.attention.query.{p}",
            "encoder.layer.{n}.attention.attention.key.{p}",
            "encoder.layer.{n}.attention.attention.value.{p}",
        ),
        "blocks.{n}.attn.proj.{p}": "encoder.layer.{n}.attention.output.dense.{p}",
        "blocks.{n}.norm2.{p}": "encoder.layer.{n}.layernorm_after.{p}",
        "blocks.{n}.mlp.fc1.{p}": "encoder.layer.{n}.intermediate.dense.{p}",
        "blocks.{n}.mlp.fc2.{p}": "encoder.layer.{n}.output.dense.{p}",
        "norm.{p}": "layernorm.{p}",
    },
    rewritten=((r"^vit\.", ""),),
    unused=("embeddings.mask_token", "pooler.dense.weight", "pooler.dense.bias"),
)
"""``ViTModel``: Phikon (iBOT, ViT-B/16, doi:10.1101/2023.07.21.23292757).

Its layer normalisation has an epsilon of 1e-12, the default of ``ViTConfig``, where timm's has 1e-6. The original refuses
images of another size.
"""

DINOV2 = Layout(
    names={
        "cls_token": "embeddings.cls_token",
        "reg_token": "embeddings.register_tokens",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj.{p}": "embeddings.patch_embeddings.projection.{p}",
        "blocks.{n}.norm1.{p}": "encoder.layer.{n}.norm1.{p}",
        "blocks.{n}.attn.qkv.{p}": (
            "encoder.layer.{n}.attention.attention.query.{p}",
            "encoder.layer.{n}.attention.attention.key.{p}",
            "encoder.layer.{n}.attention.attention.value.{p}",
        ),
        "blocks.{n}.attn.proj.{p}": "encoder.layer.{n}.attention.output.dense.{p}",
        "blocks.{n}.ls{s}.gamma": "encoder.layer.{n}.layer_scale{s}.lambda1",
        "blocks.{n}.norm2.{p}": "encoder.layer.{n}.norm2.{p}",
        "blocks.{n}.mlp.{rest}": "encoder.layer.{n}.mlp.{rest}",
        "norm.{p}": "layernorm.{p}",
    },
    # The gated network has the same two steps under other names; the gate comes first in both.
    rewritten=(
        (r"^dinov2(_with_registers)?\.", ""),
        (r"\.mlp\.weights_in\.", ".mlp.fc1."),
        (r"\.mlp\.weights_out\.", ".mlp.fc2."),
    ),
    unused=("embeddings.mask_token",),
    resampling=Resampling(mode="bicubic"),
    resampling_with_registers=Resampling(mode="bicubic", is_antialiased=True),
)
"""``Dinov2Model`` and ``Dinov2WithRegistersModel``: Phikon-v2 (ViT-L/16, arXiv:2409.09173), Midnight (ViT-g/14,
arXiv:2504.05186), Hibou (ViT-B/14 and ViT-L/14 with registers and a gated feed-forward network, arXiv:2406.05074).

Hibou's own class, which comes with its repository, keeps the names of ``Dinov2WithRegistersModel``.
"""

CLIP = Layout(
    names={
        "cls_token": "vision_model.embeddings.class_embedding",
        "pos_embed": "vision_model.embeddings.position_embedding.weight",
        "patch_embed.proj.weight": "vision_model.embeddings.patch_embedding.weight",
        "norm_pre.{p}": "vision_model.pre_layrnorm.{p}",  # spelt so upstream
        "blocks.{n}.norm1.{p}": "vision_model.encoder.layers.{n}.layer_norm1.{p}",
        "blocks.{n}.attn.qkv.{p}": (
            "vision_model.encoder.layers.{n}.self_attn.q_proj.{p}",
            "vision_model.encoder.layers.{n}.self_attn.k_proj.{p}",
            "vision_model.encoder.layers.{n}.self_attn.v_proj.{p}",
        ),
        "blocks.{n}.attn.proj.{p}": "vision_model.encoder.layers.{n}.self_attn.out_proj.{p}",
        "blocks.{n}.norm2.{p}": "vision_model.encoder.layers.{n}.layer_norm2.{p}",
        "blocks.{n}.mlp.{rest}": "vision_model.encoder.layers.{n}.mlp.{rest}",
        "norm.{p}": "vision_model.post_layernorm.{p}",
        "head.weight": "visual_projection.weight",
    },
    unused=("text_model.*", "text_projection.weight", "logit_scale", "vision_model.embeddings.position_ids"),
    flat=("cls_token", "pos_embed"),
)
"""``CLIPModel``: PLIP (ViT-B/32, doi:10.1038/s41591-023-02504-3).

Features are what `get_image_features` gives: the projected class token, not normalised.
"""
