"""What a layout is: a table from the names of a network's weights to the names that they are published under."""

import dataclasses
import functools
import re
from collections.abc import Mapping

from .positions import Resampling

__all__ = ["Layout", "Source"]

WILDCARDS = {"{n}": r"\d+", "{s}": r"\d+", "{p}": r"weight|bias", "{rest}": r".+"}
PART = re.compile(r"(?P<name>.+)\[(?P<part>\d+)/(?P<n_parts>\d+)\]")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One of `n_parts` equal parts, along the first axis, of the published weight `name`."""

    name: str
    part: int = 0
    n_parts: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """How one implementation names the weights of a network.

    Attributes
    ----------
    names
        Pattern of the network's name -> pattern of the published one, or of several that are stacked along the first
        axis in their order. ``{n}`` and ``{s}`` stand for a number, ``{p}`` for ``weight`` or ``bias``, ``{rest}``
        for anything; the first pattern that fits counts. ``name[1/3]`` is the second of three equal parts of a weight.
    rewritten
        (regular expression, replacement) pairs that published names go through first: prefixes, numbers of chunks.
    unused
        Published names, as patterns of `fnmatch`, that are no part of the image tower or of its features.
    envelopes
        Keys of the published file that the weights may lie under.
    flat
        Names of the network whose weight is published without its leading axes of length one.
    n_unused_positions
        First rows of the published position embedding that no token ever gets.
    resampling
        How the original resamples the position embedding to another grid; None where it refuses other image sizes.
    resampling_with_registers
        The same for networks with register tokens. timm adds no position to their class token, so its published
        position becomes part of the token itself.
    """

    names: Mapping[str, str | tuple[str, ...]]
    rewritten: tuple[tuple[str, str], ...] = ()
    unused: tuple[str, ...] = ()
    envelopes: tuple[str, ...] = ()
    flat: tuple[str, ...] = ()
    n_unused_positions: int = 0
    resampling: Resampling | None = None
    resampling_with_registers: Resampling | None = None

    @functools.cached_property
    def _patterns(self) -> tuple[tuple[re.Pattern[str], tuple[str, ...]], ...]:
        return tuple(
            (_compiled(name), (sources,) if isinstance(sources, str) else sources)
            for name, sources in self.names.items()
        )

    def sources(self, name: str) -> tuple[Source, ...]:
        """List the published weights that the network's weight `name` is made of; none where nothing is."""
        for pattern, sources in self._patterns:
            found = pattern.fullmatch(name)
            if found:
                return tuple(_source(source.format_map(found.groupdict())) for source in sources)
        return ()

    def rewrite(self, published: str) -> str:
        """Bring a published name into the form that `names` has."""
        for expression, replacement in self.rewritten:
            published = re.sub(expression, replacement, published)
        return published


def _compiled(name: str) -> re.Pattern[str]:
    expression = re.escape(name)
    for wildcard, meaning in WILDCARDS.items():
        expression = expression.replace(re.escape(wildcard), f"(?P<{wildcard[1:-1]}>{meaning})")
    return re.compile(expression)


def _source(text: str) -> Source:
    found = PART.fullmatch(text)
    if not found:
        return Source(name=text)
    return Source(name=found["name"], part=int(found["part"]), n_parts=int(found["n_parts"]))
