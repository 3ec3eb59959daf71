"""A casino that opens tables, tables that play by themselves, and an adviser that thinks for long.

A move is saved before it is answered, so a server that is killed costs none. Moves are numbered, so
a message that comes twice counts once: that makes them ``idempotent``, and clients may repeat them.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec

import rio
from examples.black_jack import rules
from examples.black_jack.game import SEATS, Game, House, Phase, Refused, Seat

log = logging.getLogger(__name__)


# --- tables ---------------------------------------------------------------------------------------


class View(rio.Message):
    """What everybody sees of a table: the answer to each move, and published after each change."""

    table: str
    server: str
    """The address of the server on which the table lives now."""
    step: int
    """Larger in a later view of the same table."""
    phase: Phase
    dealer: list[str]
    seats: list[Seat]
    turn: str | None
    """The player who has to hit or to stand."""

    def seat_of(self, player: str) -> Seat | None:
        return next((seat for seat in self.seats if seat.player == player), None)


class Look(rio.Message[View], readonly=True):
    """See the table."""


class SetUp(rio.Message[None], idempotent=True):
    """Say how the table is run."""

    house: House


class Sit(rio.Message[View], idempotent=True):
    """Take a seat; a player who has one keeps it, with the chips."""

    player: str


class Leave(rio.Message[View], idempotent=True):
    """Give the seat back."""

    player: str


class Bet(rio.Message[View], idempotent=True):
    player: str
    number: int
    """1 for the player's first bet or move since sitting down, then 2, and so on."""
    chips: int


class Hit(rio.Message[View], idempotent=True):
    player: str
    number: int


class Stand(rio.Message[View], idempotent=True):
    player: str
    number: int


class PlayOn(rio.Message[None], idempotent=True):
    """The croupier's: make the next move that needs no player, if there is any."""


class Table(rio.ServiceObject):
    game: Game = rio.managed_state()

    async def after_load(self) -> None:
        self.changed_at = now()
        self.croupier: asyncio.Task[None] | None = None
        self._call_croupier()

    @rio.handler
    def look(self, _: Look) -> View:
        return self._view()

    @rio.handler
    async def set_up(self, message: SetUp) -> None:
        self.game.house = message.house
        await self._save()

    @rio.handler
    async def sit(self, message: Sit) -> View:
        self.game.sit(message.player, self.id)
        self._call_croupier()
        return await self._save()

    @rio.handler
    async def leave(self, message: Leave) -> View:
        self.game.leave(message.player)
        return await self._save()

    @rio.handler
    async def bet(self, message: Bet) -> View:
        self.game.bet(message.player, message.number, message.chips)
        return await self._save()

    @rio.handler
    async def hit(self, message: Hit) -> View:
        self.game.hit(message.player, message.number)
        return await self._save()

    @rio.handler
    async def stand(self, message: Stand) -> View:
        self.game.stand(message.player, message.number)
        return await self._save()

    @rio.handler
    async def play_on(self, _: PlayOn) -> None:
        if self.game.play_on(time_is_up=now() - self.changed_at > self.game.house.patience):
            await self._save()

    def _call_croupier(self) -> None:
        """See to it that the table has a croupier while anybody sits there."""
        if self.game.seats and (self.croupier is None or self.croupier.done()):
            self.croupier = self.tasks.create(self._deal())

    async def _deal(self) -> None:
        """The croupier, a task that the table owns: when the table leaves this server, the task
        ends, and the table calls another one where it comes to life again. It runs beside the
        turns of the table, so it changes nothing itself and sends messages like everybody else.
        """
        while self.game.seats:
            await asyncio.sleep(self.game.house.pace)
            try:
                await self.send(Table, self.id, PlayOn())
            except rio.RioError as error:
                log.warning("the croupier of %s tries again: %s", self.id, error)

    async def _save(self) -> View:
        self.game.step += 1
        self.changed_at = now()
        await self.save_state()
        view = self._view()
        self.publish(view)
        return view

    def _view(self) -> View:
        game = self.game
        turn = game.turn.player if game.turn else None
        return View(
            table=self.id,
            server=str(self.address),
            step=game.step,
            phase=game.phase,
            dealer=game.shown_by_dealer,
            seats=game.seats,
            turn=turn,
        )


def now() -> float:
    return asyncio.get_running_loop().time()


# --- the casino -----------------------------------------------------------------------------------

CASINO = "royal"


class Open(rio.Message[None], idempotent=True):
    """Open a table, or run an open one in another way."""

    table: str
    house: House = House()


class Admit(rio.Message[str], idempotent=True):
    """Give a player a seat. Answers with the table."""

    player: str
    table: str | None = None
    """The table that the player wishes; by default any that has a seat."""


class Floor(rio.State):
    tables: list[str] = msgspec.field(default_factory=list)


class Casino(rio.ServiceObject):
    """Calls tables. No table ever calls the casino, so the two never wait for each other."""

    floor: Floor = rio.managed_state()

    @rio.handler
    async def open(self, message: Open) -> None:
        await self.ref(Table, message.table).set_up(SetUp(message.house))
        if message.table not in self.floor.tables:
            self.floor.tables.append(message.table)
            await self.save_state()

    @rio.handler
    async def admit(self, message: Admit) -> str:
        table = message.table or await self._find_table(message.player)
        if table not in self.floor.tables:
            await self.open(Open(table))
        await self.ref(Table, table).sit(Sit(message.player))
        return table

    async def _find_table(self, player: str) -> str:
        """Where the player sits already, else where a seat is free, else a new table."""
        looks = [self.ref(Table, table).look(Look()) for table in self.floor.tables]
        views = await asyncio.gather(*looks)
        known = [view.table for view in views if view.seat_of(player)]
        free = [view.table for view in views if len(view.seats) < SEATS]
        return next(iter(known + free), f"table-{len(views) + 1}")


# --- the adviser ----------------------------------------------------------------------------------


class Odds(rio.Message):
    """The chances to win, from 0 to 1."""

    hit: float
    stand: float


class Advise(rio.Message[Odds], readonly=True):
    """Ask what a player had better do."""

    player: str
    table: str


class Adviser(rio.ServiceObject):
    """Plays some thousand games in its head before it answers.

    That takes long, and waits for nothing: it would hold up all objects of its server. So this
    handler has a thread for itself.
    """

    @rio.handler(thread=True)
    def advise(self, message: Advise) -> Odds:
        view = rio.from_thread(self.ref(Table, message.table).look, Look())
        seat = view.seat_of(message.player)
        if seat is None or view.turn != message.player:
            raise Refused("it is not your turn")
        card = view.dealer[0]
        return Odds(
            hit=rules.chance(seat.hand, card, hit=True),
            stand=rules.chance(seat.hand, card, hit=False),
        )


registry = rio.Registry(Casino, Table, Adviser)
