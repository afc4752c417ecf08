"""Cases that are not mended yet, each with the reason; docs/reliability.md lists them too.

They are strict expected failures: a case that is mended must be removed here.
"""

OPEN: dict[str, str] = {}
