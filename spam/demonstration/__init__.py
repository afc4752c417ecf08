"""`spam demo`: every step of the toolkit on a small cohort, through its public library."""

from .demo import DemoReport, demo

__all__ = ["DemoReport", "demo"]
