"""What a node tells a collector of metrics. All of it is read when it is asked for: a call counts
nothing that it would not count anyway.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from platform import python_version

from rio._core.dispatch import Dispatcher
from rio._version import __version__
from rio.contracts.membership import MembershipSnapshot, MemberStatus
from rio.server.statistics import ServerStatistics
from rio.web.exposition import Metric, Sample


class NodeMetrics:
    """The metrics of one node.

    ``statistics``, ``members``, ``is_ready``: what the node says of itself, which starts now.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        statistics: Callable[[], ServerStatistics],
        members: Callable[[], MembershipSnapshot],
        is_ready: Callable[[], bool],
    ) -> None:
        self._dispatcher = dispatcher
        self._statistics = statistics
        self._members = members
        self._is_ready = is_ready
        self._started_at = time.time()

    def read(self) -> Iterator[Metric]:
        """All of them, as they are now."""
        yield from self._of_node()
        yield from _of_statistics(self._statistics())

    def _of_node(self) -> Iterator[Metric]:
        build = {"version": __version__, "python": python_version()}
        yield Metric("rio_build_info", "gauge", "What runs here; always 1.", [Sample(1, build)])
        yield _gauge(
            "rio_start_time_seconds", "When the server started, Unix time.", self._started_at
        )
        yield _gauge(
            "rio_ready", "Whether the server takes new objects: 1 or 0.", int(self._is_ready())
        )
        yield _gauge(
            "rio_lease_seconds",
            "Seconds that are left of the lease; without it the server runs no calls.",
            max(0.0, self._dispatcher.lease_until - self._dispatcher.now()),
        )
        yield Metric(
            "rio_members",
            "gauge",
            "Members of the cluster that the server knows, by status.",
            _count_members(self._members()),
        )
        yield Metric(
            "rio_objects",
            "gauge",
            "Objects in memory, with those that are being activated or deactivated, by type.",
            [
                Sample(len(table.mailboxes), {"type": type_name})
                for type_name, table in self._dispatcher.tables.items()
            ],
        )


def _of_statistics(counted: ServerStatistics) -> Iterator[Metric]:
    """What :meth:`rio.Server.statistics` says, but for the objects, of which each type has its own
    number.
    """
    yield _counter("rio_calls_total", "Requests that arrived.", counted.calls)
    yield _counter(
        "rio_failures_total", "Requests that were answered with an error.", counted.failures
    )
    yield _gauge("rio_in_flight_calls", "Requests that wait or run.", counted.in_flight)
    yield _counter(
        "rio_fenced_total",
        "Turns and replies that were held back because the server did not hold its lease.",
        counted.fenced,
    )
    yield _gauge(
        "rio_connections", "Connections of clients and of other servers.", counted.connections
    )
    yield _gauge(
        "rio_subscriptions", "Subscriptions to objects of the server.", counted.subscriptions
    )
    yield _counter(
        "rio_events_delivered_total",
        "Events that were sent, counted once for each subscriber.",
        counted.events_delivered,
    )
    yield _counter(
        "rio_events_dropped_total",
        "Events that were dropped because the subscriber's connection was too slow.",
        counted.events_dropped,
    )
    if counted.certificates_expire_in is not None:
        yield _gauge(
            "rio_certificates_expire_seconds",
            "Seconds until the first certificate or authority of the server expires.",
            counted.certificates_expire_in,
        )


def _count_members(members: MembershipSnapshot) -> list[Sample]:
    counts = dict.fromkeys(MemberStatus, 0)
    for member in members.members:  # of a newer version, it may have another status
        counts[member.status] = counts.get(member.status, 0) + 1
    return [
        Sample(count, {"status": status.name.lower()}) for status, count in sorted(counts.items())
    ]


def _counter(name: str, help: str, value: int) -> Metric:
    return Metric(name, "counter", help, [Sample(value)])


def _gauge(name: str, help: str, value: float) -> Metric:
    return Metric(name, "gauge", help, [Sample(value)])
