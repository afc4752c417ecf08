"""How the small networks of a benchmark are trained: the same loop for baselines and peers."""

import dataclasses
from collections.abc import Callable

import torch
from torch import nn

from spam.hardware import seeded
from spam.typing import Float, Int64

__all__ = ["CPU", "Schedule", "train_network"]

CPU = torch.device("cpu")  # a few hundred spots: a GPU would wait for its own kernels


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and how fast a network is trained, with AdamW.

    Attributes
    ----------
    epochs
        Passes over the training rows.
    lr, weight_decay
        Step size, and decay of all weights.
    batch_size
        Rows of a step.
    """

    epochs: int
    lr: float = 1e-3
    weight_decay: float = 0.1
    batch_size: int = 64


def train_network(
    network: nn.Module,
    loss: Callable[[Int64[torch.Tensor, " b"]], Float[torch.Tensor, ""]],
    rows: Int64[torch.Tensor, " n"],
    schedule: Schedule,
    *,
    seed: tuple[int, ...],
    after_epoch: Callable[[int], None] | None = None,
) -> None:
    """Train in place; the network is left ready to predict.

    Each epoch has a seed of its own, so what `after_epoch` does in between changes nothing. Gradients are clipped to
    length 1. A rest of a single row is left out of its epoch: a contrast needs two.

    Parameters
    ----------
    loss
        Mean loss over the rows that it is given.
    rows
        Rows to visit once an epoch, in random order.
    seed
        Of the order, and of dropout and noise.
    after_epoch
        Called with the number of epochs done, network ready to predict.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=schedule.lr, weight_decay=schedule.weight_decay)
    for epoch in range(1, schedule.epochs + 1):
        network.train()
        with seeded(*seed, epoch, device=CPU):
            order = rows[torch.randperm(len(rows))]
            for batch in order.split(schedule.batch_size):  # type: ignore[no-untyped-call]
                if len(batch) == 1 < len(rows):
                    continue
                optimizer.zero_grad(set_to_none=True)
                loss(batch).backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(network.parameters(), max_norm=1.0)
                optimizer.step()
        network.eval()
        if after_epoch is not None:
            after_epoch(epoch)
