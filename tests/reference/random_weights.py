"""Weights that hide nothing: every parameter and every statistic of a network drawn at random."""

import torch
from torch import nn


def randomise(network: nn.Module, *, seed: int = 0) -> nn.Module:
    """Draw all weights at random, and put the network into evaluation mode.

    Matrices keep the variance of what goes through them; biases, scales, embeddings and batch statistics are far from the
    zeros, ones and 1e-5 that they start with, under which an exchange of two of them would not be seen.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                noise = noise.abs() + 0.5
            elif tensor.ndim in (2, 4):
                noise *= 1.5 / tensor[0].numel() ** 0.5
            elif name.endswith(("weight", "gamma", "lambda1")):
                noise = 1 + 0.5 * noise
            tensor.copy_(noise)
    return network.eval()
