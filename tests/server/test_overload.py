"""More calls than a server can run: what it runs is useful, the rest is refused early, and whoever
sends little waits little.
"""

from __future__ import annotations

import asyncio

import pytest

import rio
from rio.errors import Expired, Overloaded
from tests.server.harness import Cluster, compute

pytestmark = pytest.mark.virtual_time


class Work(rio.Message[int]):
    """Keeps the loop of the server busy for so many milliseconds."""

    number: int
    milliseconds: int = 10


class AsyncWork(Work):
    pass


class Look(rio.Message[int]):
    """Answered with how many have worked."""


done = 0


class Mill(rio.ServiceObject):
    @rio.handler
    def work(self, message: Work) -> int:
        return grind(message)

    @rio.handler
    async def async_work(self, message: AsyncWork) -> int:
        return grind(message)

    @rio.handler
    def look(self, _: Look) -> int:
        return done


def grind(message: Work) -> int:
    global done
    compute(message.milliseconds / 1000)
    done += 1
    return message.number


@pytest.fixture(autouse=True)
def nothing_done() -> None:
    global done
    done = 0


@pytest.mark.parametrize("message", [Work, AsyncWork])
async def test_who_sends_little_waits_for_little_of_what_a_greedy_client_has_sent(
    cluster: Cluster, message: type[Work]
) -> None:
    await cluster.server(Mill)
    greedy, modest = await cluster.client(), await cluster.client()
    await asyncio.gather(*(greedy.send(Mill, f"{n}", Look()) for n in range(10)))
    await modest.send(Mill, "small", Look())
    calls = [
        asyncio.ensure_future(greedy.send(Mill, f"{n % 10}", message(n), timeout=20))
        for n in range(80)
    ]
    await asyncio.sleep(0.05)
    assert await modest.send(Mill, "small", Look()) < 40
    assert await asyncio.gather(*calls) == list(range(80))


async def test_what_cannot_be_done_in_time_is_refused_before_its_time_is_over(
    cluster: Cluster,
) -> None:
    await cluster.server(Mill)
    client = await cluster.client()
    await asyncio.gather(*(client.send(Mill, f"{n}", Look()) for n in range(100)))
    await asyncio.sleep(1.0)  # the server has caught its breath
    answers = await asyncio.gather(
        *(client.send(Mill, f"{n % 100}", Work(n), timeout=0.5) for n in range(1000)),
        return_exceptions=True,
    )
    worked = [answer for answer in answers if isinstance(answer, int)]
    refused = [answer for answer in answers if isinstance(answer, Overloaded)]
    assert len(refused) >= 900
    assert len(worked) >= 45
    assert {type(answer) for answer in answers} <= {int, Overloaded, Expired}
    assert all(0 < error.retry_after < 60 for error in refused)


async def test_the_client_comes_again_when_the_server_says_so(cluster: Cluster) -> None:
    """Two seconds of work at once: a part is refused, comes again, and is done."""
    await cluster.server(Mill)
    client = await cluster.client()
    await asyncio.gather(*(client.send(Mill, f"{n}", Look()) for n in range(100)))
    calls = (client.send(Mill, f"{n % 100}", Work(n), timeout=20) for n in range(200))
    assert await asyncio.gather(*calls) == list(range(200))
    assert done == 200
