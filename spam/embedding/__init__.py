"""Embed once: sections -> tiles -> encoder -> store. The only writer of features."""

from spam.planning import plan
from spam.schemas.embed_report import EmbedReport, SectionReport

from .embedding import embed

__all__ = ["EmbedReport", "SectionReport", "embed", "plan"]
