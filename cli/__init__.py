"""The command line: options -> configuration -> one library call -> report."""

from .app import main

__all__ = ["main"]
