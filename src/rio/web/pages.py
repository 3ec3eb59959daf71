"""What a server shows over HTTP.

==========================  ====================================================================
``/members``                the membership as this server knows it, as JSON
                            (:mod:`rio.contracts.listing`); with 503 while the server is not ready,
                            because it may know less than others then
``/members/{ip}/{port}``    the newest member at an address, or 404
``/livez``                  200 while the event loop turns
``/readyz``                 200 while the server takes new objects; otherwise 503 and the reason
==========================  ====================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from rio.contracts.listing import encode_member, encode_members
from rio.contracts.membership import Member, MembershipSnapshot
from rio.identity import Address
from rio.web.listener import Answer

JSON = "application/json"
NOT_SHOWN = b"the members are shown on a loopback address, or with insecure=True\n"
INDEX = b"rio: /members  /members/{ip}/{port}  /livez  /readyz\n"


class NodePages:
    """The pages of one server.

    ``snapshot``: the membership as the server knows it. ``why_not_ready``: the reason, or an empty
    string while the server takes new objects. ``shows_members``: whether whoever asks may know the
    membership; the probes are for everybody.
    """

    def __init__(
        self,
        snapshot: Callable[[], MembershipSnapshot],
        why_not_ready: Callable[[], str],
        *,
        shows_members: bool = True,
    ) -> None:
        self._snapshot = snapshot
        self._why_not_ready = why_not_ready
        self._shows_members = shows_members

    def __call__(self, path: str) -> Answer:
        match path.strip("/").split("/"):
            case [""]:
                return Answer(HTTPStatus.OK, INDEX)
            case ["livez"]:
                return Answer(HTTPStatus.OK, b"ok\n")
            case ["readyz"]:
                return self._ready()
            case ["members", *_] if not self._shows_members:
                return Answer(HTTPStatus.FORBIDDEN, NOT_SHOWN)
            case ["members"]:
                return Answer(self._status(), encode_members(self._snapshot()), JSON)
            case ["members", host, port]:
                return self._member(host, port)
            case _:
                return Answer(HTTPStatus.NOT_FOUND, INDEX)

    def _status(self) -> HTTPStatus:
        return HTTPStatus.SERVICE_UNAVAILABLE if self._why_not_ready() else HTTPStatus.OK

    def _ready(self) -> Answer:
        reason = self._why_not_ready()
        if reason:
            return Answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{reason}\n".encode())
        return Answer(HTTPStatus.OK, b"ok\n")

    def _member(self, host: str, port: str) -> Answer:
        member = self._find(host.strip("[]"), port)
        if member is None:
            text = f"no member is known at {host} port {port}\n"
            return Answer(HTTPStatus.NOT_FOUND, text.encode())
        return Answer(HTTPStatus.OK, encode_member(member), JSON)

    def _find(self, host: str, port: str) -> Member | None:
        if not (port.isascii() and port.isdigit() and int(port) <= 65535):
            return None
        address = str(Address(host, int(port)))
        at_address = [member for member in self._snapshot().members if member.address == address]
        return max(at_address, key=lambda member: member.generation, default=None)
