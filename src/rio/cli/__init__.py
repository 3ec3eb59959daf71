"""The command ``rio``: it runs servers, shows a cluster, and sends messages by hand."""

from rio.cli.program import main

__all__ = ["main"]
