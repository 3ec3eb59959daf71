"""A server whose SQLite file is deleted acknowledges nothing that nobody will find again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import rio
from rio.errors import NotExecuted, OutcomeUnknown, RioError
from tests.server.harness import Cluster, until


class Total(rio.State):
    value: int = 0


class Add(rio.Message[int]): ...


class Account(rio.ServiceObject):
    total: Total = rio.managed_state()

    @rio.handler
    async def add(self, message: Add) -> int:
        self.total.value += 1
        await self.save_state()
        return self.total.value


async def test_a_server_whose_file_was_deleted_acknowledges_no_save(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "bank.db"
    server = await cluster.server(Account, storage=f"sqlite:///{path}")
    assert await server.client.send(Account, "ada", Add()) == 1
    os.unlink(path)
    with pytest.raises(RioError):
        await server.client.send(Account, "ada", Add(), timeout=0.5)
    await until(lambda: not server._catalog.dispatcher.admits)
    assert "was deleted or replaced" in caplog.text
    other = await cluster.server(Account, storage=f"sqlite:///{path}")
    assert await other.client.send(Account, "ada", Add()) == 1
    # It is fenced and, a moment later, evicted and stopped. In between its client may find the
    # other server in the new file: then what it says of the save is true there.
    try:
        saved = {await server.client.send(Account, "ada", Add(), timeout=0.5)}
    except (NotExecuted, RuntimeError):
        saved = {1}
    except OutcomeUnknown:
        saved = {1, 2}
    assert await other.client.send(Account, "ada", Add()) - 1 in saved
