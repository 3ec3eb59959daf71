"""Commands to the cluster itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import msgspec

from rio.objects import system_messages

if TYPE_CHECKING:
    from rio.client.client import Client
    from rio.objects.service_object import ServiceObject


class AdminCommand(msgspec.Struct, frozen=True):
    """A command for :meth:`rio.Client.admin`: ``AdminCommand.shutdown(Account, "ada")``,
    ``AdminCommand.server_exit("10.0.0.7:5000")``.
    """

    object_type: type[Any] | str = ""
    id: str = ""
    address: str = ""

    @classmethod
    def shutdown(cls, object_type: type[ServiceObject] | str, id: str) -> Self:
        """Deactivate an object, on whichever node it lives. Its next message brings it back."""
        return cls(object_type=object_type, id=id)

    @classmethod
    def server_exit(cls, address: str) -> Self:
        """Have a server drain and stop."""
        return cls(address=address)

    async def run(self, client: Client) -> None:
        if self.address:
            await client.ask_to_leave(self.address)
        else:
            await client.send(self.object_type, self.id, system_messages.Shutdown())
