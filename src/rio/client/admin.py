"""Commands to the cluster itself, as data; :meth:`rio.Client.admin` carries them out."""

from __future__ import annotations

from typing import Any

import msgspec

from rio.objects.service_object import ServiceObject


class AdminCommand(msgspec.Struct, frozen=True):
    """A command for :meth:`rio.Client.admin`: ``AdminCommand.shutdown(Account, "ada")`` or
    ``AdminCommand.server_exit("10.0.0.7:5000")``.
    """

    @staticmethod
    def shutdown(
        object_type: type[ServiceObject] | str, id: str, *, force: bool = False
    ) -> Shutdown:
        """Deactivate an object, on whichever server it lives. Its next message brings it back.

        The object leaves after the turn that runs; calls that wait bring it back. An object that is
        not in memory stays where it is, and nothing is written. ``force=True`` cancels the turn
        that runs, and its caller gets :class:`rio.errors.OutcomeUnknown`; the shutdown hooks run.
        """
        return Shutdown(object_type, id, force)

    @staticmethod
    def server_exit(address: str) -> ServerExit:
        """Have the server at ``address``, ``"host:port"``, drain and stop."""
        return ServerExit(address)


class Shutdown(AdminCommand, frozen=True):
    """Deactivate an object."""

    object_type: type[Any] | str
    id: str
    force: bool = False
    """Whether the turn that runs is cancelled."""


class ServerExit(AdminCommand, frozen=True):
    """Have a server drain and stop."""

    address: str
