"""Layout of BEiT-3 (torchscale, arXiv:2208.10442), of which the branch that sees images is taken."""

from .layout import Layout
from .positions import Resampling

__all__ = ["BEIT3"]

BEIT3 = Layout(
    names={
        "cls_token": "beit3.vision_embed.cls_token",
        "pos_embed": "beit3.encoder.embed_positions.A.weight",
        "patch_embed.proj.{p}": "beit3.vision_embed.proj.{p}",
        "blocks.{n}.norm1.{p}": "beit3.encoder.layers.{n}.self_attn_layer_norm.A.{p}",
        "blocks.{n}.attn.qkv.{p}": (
            "beit3.encoder.layers.{n}.self_attn.q_proj.A.{p}",
            "beit3.encoder.layers.{n}.self_attn.k_proj.A.{p}",
            "beit3.encoder.layers.{n}.self_attn.v_proj.A.{p}",
        ),
        "blocks.{n}.attn.norm.{p}": "beit3.encoder.layers.{n}.self_attn.inner_attn_ln.A.{p}",
        "blocks.{n}.attn.proj.{p}": "beit3.encoder.layers.{n}.self_attn.out_proj.A.{p}",
        "blocks.{n}.norm2.{p}": "beit3.encoder.layers.{n}.final_layer_norm.A.{p}",
        "blocks.{n}.mlp.norm.{p}": "beit3.encoder.layers.{n}.ffn.A.ffn_layernorm.{p}",
        "blocks.{n}.mlp.{rest}": "beit3.encoder.layers.{n}.ffn.A.{rest}",
        "norm.{p}": "beit3.encoder.layer_norm.A.{p}",
    },
    unused=(
        "beit3.text_embed.weight",
        "beit3.vision_embed.mask_token",
        "beit3.encoder.embed_positions.B.weight",
        "beit3.encoder.layers.*.B.*",  # the branch that reads text
        "beit3.encoder.layer_norm.B.weight",
        "beit3.encoder.layer_norm.B.bias",
        "vision_head.weight",
        "language_head.weight",
        "logit_scale",
    ),
    envelopes=("model", "module"),
    flat=("pos_embed",),
    n_unused_positions=2,  # torchscale counts positions from 2, as fairseq does
    resampling=Resampling(mode="bicubic"),
)
"""MUSK (BEiT3-large at 384 px, doi:10.1038/s41586-024-08378-w), `musk/modeling.py` of its repository.

Features are those of ``model(image, with_head=False, out_norm=False, ms_aug=False)``: the class token after the last
normalisation. Not verified on the published file: that it holds no more than the network that upstream builds has, which
loads it without asking for that.
"""
