"""Independent random streams: what is drawn for one section never depends on how many there are."""

import zlib

import numpy as np

from spam.errors import ConfigError

__all__ = ["random_stream"]


def random_stream(seed: int, *key: str | int) -> np.random.Generator:
    """Make the generator that belongs to `key`, such as ``("counts", donor, section)``.

    Streams of different keys are independent (`numpy.random.SeedSequence` with a spawn key), so adding a
    donor, or drawing more numbers in one place, changes nothing elsewhere.

    Raises
    ------
    ConfigError
        If `seed` is negative.
    """
    if seed < 0:
        message = f"--seed must not be negative, not {seed!r}; give 0 or a positive whole number"
        raise ConfigError(message)
    spawn_key = tuple(part if isinstance(part, int) else zlib.crc32(part.encode()) for part in key)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=spawn_key))
