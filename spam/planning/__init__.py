"""What `spam embed` is about to do: everything read and checked, before anything is computed or written."""

from .checking import plan, slide_of
from .planned import EmbedPlan, PlannedSection
from .records import differences

__all__ = ["EmbedPlan", "PlannedSection", "differences", "plan", "slide_of"]
