"""Play black jack: ``python -m examples.black_jack.play --storage sqlite:///casino.db``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import getpass
import sys
import threading

import rio
from examples.black_jack import rules
from examples.black_jack.game import Phase, Refused, Seat, TableFull
from examples.black_jack.service import (
    CASINO,
    Admit,
    Advise,
    Adviser,
    Bet,
    Casino,
    Hit,
    Leave,
    Look,
    Stand,
    Table,
    View,
)

CLEAR = "\x1b[H\x1b[2J" if sys.stdout.isatty() else ""


async def main(storage: str, name: str, wish: str | None) -> None:
    async with rio.Client(storage) as client:
        try:
            table = await client.send(Casino, CASINO, Admit(name, wish))
        except TableFull as error:
            print(f"the table {error.table} is full")
            return
        async with client.subscribe(Table, table, View) as views:
            await Terminal(client, table, name).play(views)


class Terminal:
    """What one player sees of a table, and does there."""

    def __init__(self, client: rio.Client, table: str, name: str) -> None:
        self.client = client
        self.table = client.ref(Table, table)
        self.name = name
        self.stake = 10
        self.leaves = False
        self.lines = read_lines()
        self.asked = asyncio.Event()
        """Set while it is up to the player."""

    async def play(self, views: rio.Subscription[View]) -> None:
        self.view = await self.table.look(Look())
        self.show()
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self.watch(views))
            while await self.move():
                pass
            watching.cancel()
        if seat := self.view.seat_of(self.name):
            await self.table.leave(Leave(self.name))
            print(f"{self.name} leaves with {seat.chips} chips")

    async def watch(self, views: rio.Subscription[View]) -> None:
        """Show what happens at the table, until cancelled."""
        while True:
            try:
                self.see(await anext(views))
            except rio.errors.Gap:  # the table has moved to another server, for example
                self.see(await self.table.look(Look()))

    def see(self, view: View) -> None:
        # the answer to a move and the event that tells of it may come in any order
        if view.step >= self.view.step and view != self.view:
            self.view = view
            self.show()

    def show(self) -> None:
        seat = self.view.seat_of(self.name)
        lines = [f"{CLEAR}{self.view.table} on {self.view.server}", draw_dealer(self.view)]
        lines += [draw(each, self.view) for each in self.view.seats]
        question = self.question(seat)
        print(*lines, *filter(None, [question]), sep="\n", flush=True)
        if question is None:
            self.asked.clear()
        else:
            self.asked.set()

    def question(self, seat: Seat | None) -> str | None:
        """What the player has to decide now."""
        if seat is None:
            return "your seat was given away"
        if self.view.turn == self.name:
            return "hit or stand (h, s)? a: advice, q: stand and leave"
        if self.view.phase is not Phase.BETS or seat.bet:
            return None
        if not seat.chips:
            return "you have no chips left"
        return f"your bet? 1 to {seat.chips}, Enter: {self.bet_again(seat)}, q: leave"

    def bet_again(self, seat: Seat) -> int:
        return min(self.stake, seat.chips)

    async def move(self) -> bool:
        """Do what the player's next line says, once it is up to the player.

        Returns whether the player stays.
        """
        await self.asked.wait()
        seat = self.view.seat_of(self.name)
        if seat is None:
            return False
        is_broke = not seat.chips and not seat.bet
        line = "q" if self.leaves or is_broke else await self.lines.get()
        try:
            return await self.do(line.strip(), self.view.seat_of(self.name) or seat)
        except Refused as error:
            print(error, flush=True)
            return True

    async def do(self, line: str, seat: Seat) -> bool:
        number = seat.moves + 1
        if line == "q" and not seat.bet:
            return False
        if line in ("s", "q"):
            self.leaves = line == "q"  # when the round is over
            self.see(await self.table.stand(Stand(self.name, number)))
        elif line == "h":
            self.see(await self.table.hit(Hit(self.name, number)))
        elif line == "a":
            adviser = self.client.ref(Adviser, self.name)
            odds = await adviser.advise(Advise(self.name, self.view.table))
            print(f"you win {odds.hit:.0%} if you hit, {odds.stand:.0%} if you stand", flush=True)
        elif line.isdecimal() and len(line) < 9:
            self.stake = int(line)
            self.see(await self.table.bet(Bet(self.name, number, self.stake)))
        elif not line and not seat.bet:
            self.see(await self.table.bet(Bet(self.name, number, self.bet_again(seat))))
        else:
            self.show()
        return True


def draw_dealer(view: View) -> str:
    return f"  {'dealer':32}{draw_hand(view.dealer)}".rstrip()


def draw(seat: Seat, view: View) -> str:
    mark = ">" if view.turn == seat.player else " "
    bet = f"bet {seat.bet}" if seat.bet else ""
    chips = f"{seat.chips} chips"
    hand = draw_hand(seat.hand)
    return f"{mark} {seat.player:12.12}{chips:>10}{bet:>8}  {hand:24}{seat.outcome or ''}".rstrip()


def draw_hand(hand: list[str]) -> str:
    if not hand:
        return ""
    is_open = "??" not in hand
    return " ".join(hand) + (f" = {rules.points(hand)}" if is_open else "")


def read_lines() -> asyncio.Queue[str]:
    """What is typed, line by line, and "q" at its end.

    A thread waits for it. It is a daemon, so that the program can end while nobody types, and reads
    without a buffer, whose lock would hold up that end.
    """
    lines = asyncio.Queue[str]()
    loop = asyncio.get_running_loop()

    def read() -> None:
        with (
            contextlib.suppress(RuntimeError),  # the game is over, and so is the loop
            open(0, "rb", buffering=0, closefd=False) as terminal,
        ):
            for line in terminal:
                loop.call_soon_threadsafe(lines.put_nowait, line.decode(errors="replace"))
            loop.call_soon_threadsafe(lines.put_nowait, "q")

    threading.Thread(target=read, daemon=True).start()
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--storage", required=True, help="of the cluster, for example sqlite:///casino.db"
    )
    parser.add_argument("--name", default=getpass.getuser(), help="who plays; by default the user")
    parser.add_argument("--table", help="where to sit; by default where there is a seat")
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):  # the seat is kept for three rounds
        rio.run(main(arguments.storage, arguments.name, arguments.table))
