"""What the URL of every storage must look like."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from rio.errors import ConfigurationError


def split_url(url: str, right: str) -> SplitResult:
    """The parts of a URL. ``right``: an example of a URL that would do.

    :raises ConfigurationError: it does not begin with a scheme and ``://``, or has a ``#``, at
        which a URL ends.
    """
    if "#" in url:
        raise ConfigurationError(f"{url!r}: a '#' in a name or password is written %23")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigurationError(f"{url!r} is no URL ({error}): write {right}") from error
    if not url.lower().startswith(f"{parts.scheme}://"):
        raise ConfigurationError(f"{url!r} has no '://' after its scheme: write {right}")
    return parts
