"""Run the command line as ``python -m spam.cli``."""

from .app import main

main()
