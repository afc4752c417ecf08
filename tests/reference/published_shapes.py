"""Names and shapes of the weights that transformers publishes, written out by hand: name -> shape."""

Shapes = dict[str, tuple[int, ...]]


def linear(name: str, n_in: int, n_out: int) -> Shapes:
    return {f"{name}.weight": (n_out, n_in), f"{name}.bias": (n_out,)}


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def embeddings(width: int, patch_px: int, n_patches: int) -> Shapes:
    return {
        "embeddings.cls_token": (1, 1, width),
        "embeddings.position_embeddings": (1, 1 + n_patches, width),
        "embeddings.patch_embeddings.projection.weight": (width, 3, patch_px, patch_px),
        "embeddings.patch_embeddings.projection.bias": (width,),
        **norm("layernorm", width),
    }


def attention(block: str, width: int) -> Shapes:
    shapes = linear(f"{block}.attention.output.dense", width, width)
    for part in ("query", "key", "value"):
        shapes |= linear(f"{block}.attention.attention.{part}", width, width)
    return shapes


def vit(*, width: int, depth: int, hidden: int, patch_px: int, n_patches: int, has_pooler: bool) -> Shapes:
    shapes = embeddings(width, patch_px, n_patches)
    for i in range(depth):
        block = f"encoder.layer.{i}"
        shapes |= attention(block, width)
        shapes |= norm(f"{block}.layernorm_before", width) | norm(f"{block}.layernorm_after", width)
        shapes |= linear(f"{block}.intermediate.dense", width, hidden)
        shapes |= linear(f"{block}.output.dense", hidden, width)
    return shapes | (linear("pooler.dense", width, width) if has_pooler else {})


def dinov2(
    *,
    width: int,
    depth: int,
    hidden: int,
    patch_px: int,
    n_patches: int,
    is_gated: bool = False,
    n_registers: int = 0,
) -> Shapes:
    """`hidden`: what the second step of a block's feed-forward network takes."""
    shapes = embeddings(width, patch_px, n_patches) | {"embeddings.mask_token": (1, width)}
    if n_registers:
        shapes["embeddings.register_tokens"] = (1, n_registers, width)
    for i in range(depth):
        block = f"encoder.layer.{i}"
        shapes |= attention(block, width) | norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
        shapes |= {f"{block}.layer_scale{s}.lambda1": (width,) for s in (1, 2)}
        if is_gated:
            shapes |= linear(f"{block}.mlp.weights_in", width, 2 * hidden)
            shapes |= linear(f"{block}.mlp.weights_out", hidden, width)
        else:
            shapes |= linear(f"{block}.mlp.fc1", width, hidden) | linear(f"{block}.mlp.fc2", hidden, width)
    return shapes


def clip_tower(tower: str, width: int, depth: int, hidden: int) -> Shapes:
    shapes = {}
    for i in range(depth):
        block = f"{tower}.encoder.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= linear(f"{block}.self_attn.{part}", width, width)
        shapes |= norm(f"{block}.layer_norm1", width) | norm(f"{block}.layer_norm2", width)
        shapes |= linear(f"{block}.mlp.fc1", width, hidden) | linear(f"{block}.mlp.fc2", hidden, width)
    return shapes


def clip(
    *,
    width: int,
    depth: int,
    hidden: int,
    patch_px: int,
    n_patches: int,
    dim: int,
    text_width: int,
    text_depth: int,
    n_words: int,
    text_length: int,
) -> Shapes:
    seen = "vision_model.embeddings"
    read = "text_model.embeddings"
    return {
        f"{seen}.class_embedding": (width,),
        f"{seen}.patch_embedding.weight": (width, 3, patch_px, patch_px),
        f"{seen}.position_embedding.weight": (1 + n_patches, width),
        **norm("vision_model.pre_layrnorm", width),
        **clip_tower("vision_model", width, depth, hidden),
        **norm("vision_model.post_layernorm", width),
        "visual_projection.weight": (dim, width),
        f"{read}.token_embedding.weight": (n_words, text_width),
        f"{read}.position_embedding.weight": (text_length, text_width),
        **clip_tower("text_model", text_width, text_depth, 4 * text_width),
        **norm("text_model.final_layer_norm", text_width),
        "text_projection.weight": (dim, text_width),
        "logit_scale": (),
    }
