"""What a server shows over HTTP.

==========================  ====================================================================
``/members``                the membership as this server knows it, as JSON
                            (:mod:`rio.contracts.listing`); with 503 while the server is not ready,
                            because it may know less than others then
``/members/{ip}/{port}``    the newest member at an address, or 404; 400 if that is no port
``/livez``                  200 while the event loop turns
``/readyz``                 200 while the server takes new objects; otherwise 503 and the reason
``/metrics``                what a collector of metrics reads (:mod:`rio.web.exposition`)
==========================  ====================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus

from rio.contracts.listing import encode_member, encode_members
from rio.contracts.membership import Member, MembershipSnapshot
from rio.identity import Address, is_port
from rio.web.exposition import CONTENT_TYPE, Metric, write_metrics
from rio.web.listener import Answer

JSON = "application/json"
INDEX = b"rio: /members  /members/{ip}/{port}  /livez  /readyz  /metrics\n"


class NodePages:
    """The pages of one server.

    ``snapshot``: the membership as the server knows it. ``why_not_ready``: the reason, or an empty
    string while the server takes new objects. ``metrics``: what it measures.
    """

    def __init__(
        self,
        snapshot: Callable[[], MembershipSnapshot],
        why_not_ready: Callable[[], str],
        metrics: Callable[[], Iterable[Metric]] = tuple,
    ) -> None:
        self._snapshot = snapshot
        self._why_not_ready = why_not_ready
        self._metrics = metrics

    def __call__(self, path: str) -> Answer:
        match path.strip("/").split("/"):
            case [""]:
                return Answer(HTTPStatus.OK, INDEX)
            case ["livez"]:
                return Answer(HTTPStatus.OK, b"ok\n")
            case ["readyz"]:
                return self._ready()
            case ["metrics"]:
                return Answer(HTTPStatus.OK, write_metrics(self._metrics()), CONTENT_TYPE)
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
        if not is_port(port):
            text = "a port is a number from 0 to 65535: /members/{ip}/{port}\n"
            return Answer(HTTPStatus.BAD_REQUEST, text.encode())
        member = self._find(host.strip("[]"), port)
        if member is None:
            text = f"no member is known at {host} port {port}\n"
            return Answer(HTTPStatus.NOT_FOUND, text.encode())
        return Answer(HTTPStatus.OK, encode_member(member), JSON)

    def _find(self, host: str, port: str) -> Member | None:
        address = str(Address(host, int(port)))
        at_address = [member for member in self._snapshot().members if member.address == address]
        return max(at_address, key=lambda member: member.generation, default=None)
