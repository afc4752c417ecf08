"""Layouts of CONCH and CONCH v1.5: a vision transformer whose tokens are pooled by attention."""

from .layout import Layout
from .positions import Resampling

__all__ = ["COCA", "TITAN"]

COCA = Layout(
    names={
        "trunk.{rest}": "visual.trunk.{rest}",
        "pool.query": "visual.attn_pool_contrast.query",
        "pool.norm_query.{p}": "visual.attn_pool_contrast.ln_q.{p}",
        "pool.norm_tokens.{p}": "visual.attn_pool_contrast.ln_k.{p}",
        "pool.to_query.weight": "visual.attn_pool_contrast.attn.q_proj_weight",
        "pool.to_query.bias": "visual.attn_pool_contrast.attn.in_proj_bias[0/3]",
        "pool.to_key_value.weight": (
            "visual.attn_pool_contrast.attn.k_proj_weight",
            "visual.attn_pool_contrast.attn.v_proj_weight",
        ),
        "pool.to_key_value.bias": (
            "visual.attn_pool_contrast.attn.in_proj_bias[1/3]",
            "visual.attn_pool_contrast.attn.in_proj_bias[2/3]",
        ),
        "pool.out.{p}": "visual.attn_pool_contrast.attn.out_proj.{p}",
        "norm.{p}": "visual.ln_contrast.{p}",
    },
    rewritten=((r"^module\.", ""),),
    unused=(
        "visual.proj_contrast",
        "visual.attn_pool_caption.*",
        "visual.ln_caption.weight",
        "visual.ln_caption.bias",
        "text.*",
        "text_decoder.*",
        "logit_scale",
    ),
    envelopes=("state_dict",),
    resampling=Resampling(mode="bilinear"),
)
"""CONCH (ViT-B/16 at 448 px, doi:10.1038/s41591-024-02856-4), `conch/open_clip_custom` of its repository.

Features are those of ``encode_image(images, proj_contrast=False, normalize=False)``, which upstream recommends for all
but the comparison with text: before the last projection, not normalised.
"""

TITAN = Layout(
    names={
        "trunk.{rest}": "trunk.{rest}",
        "pool.query": "attn_pool_contrast.query",
        "pool.norm_query.{p}": "attn_pool_contrast.ln_q.{p}",
        "pool.norm_tokens.{p}": "attn_pool_contrast.ln_k.{p}",
        "pool.to_query.weight": "attn_pool_contrast.to_q.weight",
        "pool.to_key_value.weight": "attn_pool_contrast.to_kv.weight",
        "pool.out.weight": "attn_pool_contrast.to_out.weight",
        "norm.{p}": "ln_contrast.{p}",
    },
    resampling=Resampling(mode="bicubic", offset=0.1),
)
"""CONCH v1.5 (ViT-L/16 at 448 px), the tile encoder of TITAN (doi:10.1038/s41591-025-03982-3), `conch_v1_5.py` there.

The original builds its position embedding for 224 px and resamples it in every forward pass; here that is done once.
Not verified on the published file: that it is of that size there.
"""
