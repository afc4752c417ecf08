"""Tiles read ahead in threads, so that the encoder never waits for a slide and memory stays bounded."""

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from .tile_batch import TileBatch
from .tile_reader import Spots, TileReader

__all__ = ["read_batches"]


def read_batches(
    reader: TileReader, batches: Sequence[Spots], *, n_threads: int
) -> Generator[TileBatch, None, None]:
    """Read batches of tiles in the order given, up to ``n_threads + 1`` of them ahead of whoever takes them.

    Parameters
    ----------
    reader
        Where the tiles come from.
    batches
        Numbers of the spots of each batch.
    n_threads
        Threads that read; 0 reads in the caller's own thread, nothing ahead.

    Raises
    ------
    SlideError
        If a tile cannot be decoded; raised where its batch would have come.
    """
    if n_threads == 0:
        yield from map(reader.read_batch, batches)
        return
    ahead: deque[Future[TileBatch]] = deque()
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix="tiles")
    try:
        for batch in batches:
            ahead.append(pool.submit(reader.read_batch, batch))
            if len(ahead) > n_threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
