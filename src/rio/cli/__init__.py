"""The command ``rio``: run servers, look at a cluster, send messages by hand."""

from rio.cli.commands import main

__all__ = ["main"]
