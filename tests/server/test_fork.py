"""Children that a server's process forks."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time

import pytest

PROGRAM = """
import asyncio, os, sys, time
import rio

async def main():
    async with rio.Server(
        rio.Registry(), storage="memory://", cluster="local", http="127.0.0.1:0"
    ) as server:
        print(server.address, server.http_address, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        print(child, flush=True)
        await server.closed

rio.run(main()) if sys.argv[1] == "uvloop" else asyncio.run(main())
"""


@pytest.mark.processes
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_forked_child_holds_neither_the_port_nor_the_connections_of_a_server(
    loop: str,
) -> None:
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, loop],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        addresses = [
            (host, int(port))
            for host, _, port in (word.rpartition(":") for word in server.stdout.readline().split())
        ]
        with socket.create_connection(addresses[0], timeout=10) as caller:
            time.sleep(0.3)  # the server accepts the connection
            server.stdin.write("fork\n")
            server.stdin.flush()
            child = int(server.stdout.readline())
            server.kill()
            server.wait()
            try:
                while caller.recv(4096):
                    pass
                for address in addresses:
                    with pytest.raises(ConnectionRefusedError):
                        socket.create_connection(address, timeout=10)
            finally:
                subprocess.run(["kill", f"-{signal.SIGKILL.value}", str(child)], check=False)
