"""Who is shown which page."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from http import HTTPStatus
from ipaddress import ip_address

from rio.security.tokens import is_one_of
from rio.web.listener import Answer, Request

_PORT = re.compile(r":\d*$", re.ASCII)

FOR_EVERYBODY = ("livez", "readyz")
"""The probes. Everything else says something about the cluster."""

NO_TOKENS = (
    b"only /livez and /readyz are shown to others: add a token to the security file of the server"
    b" with `rio keygen FILE --http`, or start it with --insecure\n"
)
NO_TLS = (
    b"a token would be sent here for all to read: name a certificate in the security file of the"
    b" server, under [http], or start it with --insecure\n"
)
NO_RIGHT_TOKEN = (
    b"this page needs a token of the server's security file: send the header"
    b' "Authorization: Bearer TOKEN"; `rio keygen FILE --http` makes one\n'
)
NO_OWN_HOST = b"this server answers to its IP address and to localhost, and to no other name\n"


class Guard:
    """Shows the probes to everybody, and the other pages to who has a token. Where there are no
    tokens, it shows them to this machine only, or to everybody if the server is insecure.

    ``tokens``: those that are accepted now. ``is_local``: whether only this machine reaches it.
    """

    def __init__(
        self,
        pages: Callable[[str], Answer],
        tokens: Callable[[], Collection[bytes]] = tuple,
        *,
        is_local: bool = True,
        is_insecure: bool = False,
    ) -> None:
        self._pages = pages
        self._tokens = tokens
        self._is_local = is_local
        self._is_insecure = is_insecure

    def __call__(self, request: Request) -> Answer:
        refusal = None
        if request.path.strip("/") not in FOR_EVERYBODY:
            refusal = self._refusal(request, self._tokens())
        return refusal or self._pages(request.path)

    def _refusal(self, request: Request, tokens: Collection[bytes]) -> Answer | None:
        """Why the page is not shown, or ``None``."""
        if tokens:
            if not (request.is_encrypted or self._is_local or self._is_insecure):
                return Answer(HTTPStatus.FORBIDDEN, NO_TLS)
            if not is_one_of(tokens, _token_of(request.authorization)):
                return Answer(HTTPStatus.UNAUTHORIZED, NO_RIGHT_TOKEN)
        elif self._is_local:
            # A page in a browser of this machine may come from a name that leads here. With a
            # token that does not matter: the browser has none.
            if not _is_of_this_machine(request.host):
                return Answer(HTTPStatus.MISDIRECTED_REQUEST, NO_OWN_HOST)
        elif not self._is_insecure:
            return Answer(HTTPStatus.FORBIDDEN, NO_TOKENS)
        return None


def _token_of(authorization: bytes) -> bytes:
    scheme, _, token = authorization.partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""


def _is_of_this_machine(host: str) -> bool:
    """Whether a header ``Host`` names no name that somebody else could lead here."""
    name = _PORT.sub("", host).lower()
    if name in ("", "localhost"):
        return True  # HTTP/1.0 needs none, and every browser sends it
    try:
        ip_address(name[1:-1] if name.startswith("[") and name.endswith("]") else name)
    except ValueError:
        return False
    return True
