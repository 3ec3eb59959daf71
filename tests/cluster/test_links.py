"""Connections that carry gossip between nodes."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from rio.cluster.links import GossipLinks
from rio.transport import protocol
from rio.transport.protocol import VERSION, Hello


async def test_a_node_that_greets_and_leaves_at_once_costs_its_message_and_nothing_else() -> None:
    gone = asyncio.Event()

    def greet_and_leave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = (
            protocol.write_hello(Hello(VERSION, "node", 1, "here")),
            protocol.write_goaway("stopped", 0),
        )
        writer.write(b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames))
        writer.close()
        gone.set()

    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    links = GossipLinks(lambda: Hello(VERSION, "node"))
    async with await asyncio.start_server(greet_and_leave, "127.0.0.1", 0) as listener:
        host, port = listener.sockets[0].getsockname()
        links.send(f"{host}:{port}", b"hearsay")
        [connecting] = [task for task in asyncio.all_tasks() if "gossip" in task.get_name()]
        await gone.wait()
        await asyncio.wait([connecting])
        del connecting
        gc.collect()
        await links.close()
    assert reported == []


@pytest.mark.parametrize("turns", range(8))
async def test_links_can_be_closed_by_several_at_once_while_they_connect(turns: int) -> None:
    def listen_in_silence(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)

    writers: list[asyncio.StreamWriter] = []
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
    links = GossipLinks(lambda: Hello(VERSION, "node"))
    async with await asyncio.start_server(listen_in_silence, "127.0.0.1", 0) as listener:
        host, port = listener.sockets[0].getsockname()
        links.send(f"{host}:{port}", b"hearsay")
        for _ in range(turns):
            await asyncio.sleep(0)
        await asyncio.gather(*(links.close() for _ in range(3)))
        assert len(links) == 0
        for writer in writers:
            writer.close()
    gc.collect()
    assert reported == []
