"""What the URL of every storage must look like, and how texts show it."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, urlsplit

from rio.errors import ConfigurationError

_ESCAPES = (
    "in a name or password '/' is written %2F, '?' %3F, '#' %23, '@' %40, '[' %5B and ']' %5D"
)
_BEGINNING = re.compile(r"(?:([\w+.-]+)://)?([^:/?#@\[\]]*)", re.ASCII)
"""The scheme of a URL, and the user or host after it."""


def show_url(url: str) -> str:
    """A URL for texts, which people copy into logs and reports: without its password, whatever
    that is, and without its options, of which one may be a password too.
    """
    beginning = _BEGINNING.match(url)
    assert beginning is not None
    scheme, user = beginning.groups()
    if scheme == "sqlite" and url.startswith("sqlite:///"):
        return url  # it names a file
    login, at, place = url.rpartition("@")
    if "?" in login:  # the '@' may be in an option
        place = "***"
    place = place.partition("?")[0]
    if not at:
        return place
    if scheme is None:
        return f"***@{place}"
    secret = "" if login == beginning[0] else ":***"
    return f"{scheme}://{user}{secret}@{place}"


def split_url(url: str, right: str) -> SplitResult:
    """The parts of a URL. ``right``: an example of a URL that would do.

    :raises ConfigurationError: it does not begin with a scheme and ``://``, has a ``#``, at which a
        URL ends, or an ``@`` behind its host: something in its password is not escaped.
    """
    shown = show_url(url)
    if "#" in url:
        raise ConfigurationError(f"{shown!r} has a '#': {_ESCAPES}")
    try:
        parts = urlsplit(url)
    except ValueError:  # its text may quote the password
        raise ConfigurationError(f"{shown!r} is no URL: write {right}; {_ESCAPES}") from None
    if not url.lower().startswith(f"{parts.scheme}://"):
        raise ConfigurationError(f"{shown!r} has no '://' after its scheme: write {right}")
    if parts.netloc and "@" in parts.path + parts.query:
        raise ConfigurationError(f"{shown!r} has an '@' behind its host: {_ESCAPES}")
    return parts
