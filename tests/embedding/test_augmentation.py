"""Augmented tiles are one of eight views, a little recoloured, and follow the seed."""

import numpy as np
import torch

from spam.embedding import adaptation_stage
from spam.embedding.adaptation_stage import augment


def eight_views(tile: np.ndarray) -> list[np.ndarray]:
    """All symmetries of the square of a tile (3, px, px), by index arithmetic alone."""
    i, j = np.meshgrid(np.arange(5), np.arange(5), indexing="ij")
    places = [(i, j), (4 - i, j), (i, 4 - j), (4 - i, 4 - j), (j, i), (4 - j, i), (j, 4 - i), (4 - j, 4 - i)]
    return [tile[:, a, b] for a, b in places]


def test_every_view_is_a_symmetry_and_all_eight_come(monkeypatch: object) -> None:
    monkeypatch.setattr(adaptation_stage, "_GAIN", 0.0)
    monkeypatch.setattr(adaptation_stage, "_SHIFT", 0.0)
    tiles = torch.randint(
        0, 256, (97, 3, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    torch.manual_seed(1)
    out = augment(tiles).numpy()
    seen = set()
    for tile, found in zip(tiles.numpy(), out, strict=True):
        fits = [k for k, view in enumerate(eight_views(tile)) if np.allclose(view, found, atol=1e-3)]
        assert len(fits) == 1
        seen.update(fits)
    assert seen == set(range(8))


def test_colours_move_by_little_and_stay_in_range() -> None:
    torch.manual_seed(2)
    grey = torch.full((211, 3, 2, 2), 100.0)
    out = augment(grey)[:, :, 0, 0]  # 100 * gain + shift, then (x - mean) * contrast + mean
    assert (out.max(), out.min()) <= (torch.tensor(110.0), torch.tensor(100.0))
    assert 90 < out.min() < 96
    assert 104 < out.max() < 110
    assert out.std(dim=1).min() > 0  # channels apart
    ends = augment(torch.cat([torch.zeros(101, 3, 2, 2), torch.full((101, 3, 2, 2), 255.0)]))
    assert (float(ends.min()), float(ends.max())) == (0.0, 255.0)


def test_the_generator_of_torch_decides() -> None:
    tiles = torch.arange(7 * 3 * 4 * 4).reshape(7, 3, 4, 4) % 256

    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return augment(tiles)

    torch.testing.assert_close(drawn(3), drawn(3), rtol=0, atol=0)
    assert not torch.equal(drawn(3), drawn(4))


def test_no_tile_gives_none() -> None:
    assert augment(torch.zeros(0, 3, 4, 4)).shape == (0, 3, 4, 4)
