"""Black jack: its rules, its tables, and a game in terminals whose server is killed."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import rio
from examples.black_jack import rules
from examples.black_jack.game import CHIPS, SEATS, Game, House, Phase, Refused, TableFull
from examples.black_jack.rules import Outcome
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
    Open,
    Sit,
    Stand,
    Table,
    View,
    registry,
)
from rio.testing import LocalCluster
from tests.cli.processes import ROOT, Running
from tests.cli.processes import rio as command
from tests.server.harness import until

# --- the rules ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hand", "points"),
    [
        ("2♠ 3♥", 5),
        ("K♠ Q♥", 20),
        ("10♠ J♥ 2♦", 22),
        ("A♠ 5♥", 16),
        ("A♠ A♥", 12),
        ("A♠ 5♥ K♦", 16),
        ("A♠ A♥ 9♦", 21),
        ("A♠ A♥ A♦ A♣ K♠", 14),
        ("A♠ K♥", 21),
        ("7♠ 7♥ 7♦", 21),
    ],
)
def test_an_ace_counts_eleven_until_that_is_too_much(hand: str, points: int) -> None:
    assert rules.points(hand.split()) == points


@pytest.mark.parametrize(
    ("hand", "draws"),
    [("10♠ 6♥", True), ("10♠ 7♥", False), ("A♠ 6♥", False), ("A♠ 5♥", True), ("A♠ 6♥ 9♦", True)],
)
def test_the_dealer_draws_up_to_sixteen(hand: str, draws: bool) -> None:
    assert rules.dealer_draws(hand.split()) is draws


@pytest.mark.parametrize(
    ("hand", "dealer", "outcome", "paid"),
    [
        ("10♠ 9♥", "10♦ 8♣", Outcome.WON, 20),
        ("10♠ 8♥", "10♦ 9♣", Outcome.LOST, 0),
        ("10♠ 8♥", "9♦ 9♣", Outcome.PUSH, 10),
        ("2♠ 3♥", "10♦ 6♣ 9♠", Outcome.WON, 20),
        ("10♠ 6♥ 9♥", "10♦ 6♣ 9♠", Outcome.BUST, 0),
        ("A♠ K♥", "10♦ 9♣", Outcome.BLACKJACK, 25),
        ("A♠ K♥", "7♦ 7♣ 7♠", Outcome.BLACKJACK, 25),
        ("7♠ 7♥ 7♦", "A♦ K♣", Outcome.LOST, 0),
        ("A♠ K♥", "A♦ K♣", Outcome.PUSH, 10),
        ("7♠ 7♥ 7♦", "10♦ 5♣ 6♠", Outcome.PUSH, 10),
    ],
)
def test_the_better_hand_is_paid(hand: str, dealer: str, outcome: Outcome, paid: int) -> None:
    found = rules.compare(hand.split(), dealer.split())
    assert (found, rules.payout(10, found)) == (outcome, paid)


def test_a_shoe_has_six_decks_in_an_order_that_only_a_seed_repeats() -> None:
    assert sorted(rules.new_shoe()) == sorted(6 * rules.DECK)
    assert len(set(rules.DECK)) == 52
    assert rules.new_shoe(7) == rules.new_shoe(7) != rules.new_shoe(8)


@pytest.mark.parametrize(("hand", "hit"), [("10♠ 9♥", False), ("4♠ 7♥", True)])
def test_the_odds_tell_a_good_move_from_a_bad_one(hand: str, hit: bool) -> None:
    good, bad = (rules.chance(hand.split(), "6♦", hit=each, games=500) for each in (hit, not hit))
    assert good > bad + 0.1


# --- a table --------------------------------------------------------------------------------------


def deal(cards: str, *players: str) -> Game:
    """A game in which each of the players has bet 10 chips. The cards come in this order."""
    game = Game(shoe=[*rules.DECK, *reversed(cards.split())])
    for player in players:
        game.sit(player, "table")
    for player in players:
        game.bet(player, 1, 10)
    return game


def finish(game: Game) -> dict[str, tuple[Outcome | None, int]]:
    while game.phase is Phase.DEALER:
        assert game.play_on(time_is_up=False)
    return {seat.player: (seat.outcome, seat.chips) for seat in game.seats}


def test_a_round_goes_from_the_bets_to_the_dealer() -> None:
    game = deal("5♠ 9♠ 6♠ 5♥ 9♥ 10♦ 3♥ 4♣ K♣", "ada", "bob")
    assert [seat.hand for seat in game.seats] == [["5♠", "5♥"], ["9♠", "9♥"]]
    assert game.shown_by_dealer == ["6♠", "??"]
    game.hit("ada", 2)
    assert game.turn is game.seat("ada")
    game.stand("ada", 3)
    game.stand("bob", 2)
    assert game.phase is Phase.DEALER
    assert finish(game) == {"ada": (Outcome.LOST, 90), "bob": (Outcome.LOST, 90)}
    assert game.dealer == ["6♠", "10♦", "4♣"]
    assert game.shown_by_dealer == game.dealer


def test_whoever_has_twenty_one_or_more_has_played() -> None:
    game = deal("10♠ 10♥ 9♠ 6♠ 2♥ 8♦ K♥ 9♦", "ada", "bob")
    game.hit("ada", 2)
    game.hit("bob", 2)
    assert finish(game) == {"ada": (Outcome.BUST, 90), "bob": (Outcome.WON, 110)}


def test_the_dealer_draws_for_nobody_who_has_won_or_lost_already() -> None:
    game = deal("10♠ A♥ 2♠ 6♠ K♥ 2♦ K♦ 9♦", "ada", "bob")
    game.hit("ada", 2)
    assert finish(game) == {"ada": (Outcome.BUST, 90), "bob": (Outcome.BLACKJACK, 115)}
    assert game.dealer == ["2♠", "2♦"]


def test_nobody_plays_on_against_a_blackjack_of_the_dealer() -> None:
    game = deal("10♠ A♠ 9♠ K♠", "ada")
    assert game.phase is Phase.DEALER
    assert finish(game) == {"ada": (Outcome.LOST, 90)}


@pytest.mark.parametrize(
    ("move", "why"),
    [
        (lambda game: game.hit("bob", 2), "it is not your turn"),
        (lambda game: game.stand("bob", 2), "it is not your turn"),
        (lambda game: game.bet("ada", 2, 10), "your bet has to wait for the next round"),
        (lambda game: game.hit("eve", 1), "eve does not sit at this table"),
        (lambda game: game.hit("ada", 3), "your next move is number 2, not 3"),
    ],
)
def test_a_move_against_the_rules_changes_nothing(move: Callable[[Game], None], why: str) -> None:
    game, same = (deal("5♠ 9♠ 6♠ 5♥ 9♥ 10♦", "ada", "bob") for _ in range(2))
    with pytest.raises(Refused, match=re.escape(why)):
        move(game)
    assert game == same


@pytest.mark.parametrize("chips", [0, -1, CHIPS + 1])
def test_a_bet_is_made_of_chips_that_the_player_has(chips: int) -> None:
    game = Game()
    game.sit("ada", "table")
    with pytest.raises(Refused, match="you can bet 1 to 100 chips"):
        game.bet("ada", 1, chips)


def test_a_move_that_comes_twice_counts_once() -> None:
    game = deal("5♠ 6♠ 5♥ 10♦ 3♥ 4♣", "ada")
    for _ in range(2):
        game.bet("ada", 1, 10)
        game.hit("ada", 2)
    game.sit("ada", "table")
    assert game.seat("ada").hand == ["5♠", "5♥", "3♥"]
    assert game.seat("ada").chips == 90


def test_a_table_plays_for_those_who_let_the_time_pass() -> None:
    game = Game(shoe=[*rules.DECK, *reversed(["5♠", "6♠", "5♥", "10♦", "K♣"])])
    for player in ("ada", "bob"):
        game.sit(player, "table")
    game.bet("ada", 1, 10)
    assert not game.play_on(time_is_up=False)
    assert game.phase is Phase.BETS
    game.play_on(time_is_up=True)
    assert game.turn is game.seat("ada")
    game.play_on(time_is_up=True)
    assert finish(game) == {"ada": (Outcome.WON, 110), "bob": (None, 100)}


def test_a_seat_is_given_away_after_three_rounds_without_a_bet() -> None:
    game = Game()
    game.sit("ada", "table")
    for _ in range(2):
        game.play_on(time_is_up=True)
    assert game.seats
    game.play_on(time_is_up=True)
    assert not game.seats


def test_whoever_leaves_holds_up_nobody() -> None:
    game = deal("5♠ 9♠ 6♠ 5♥ 9♥ 10♦ 5♦", "ada", "bob")
    game.leave("ada")
    assert game.turn is game.seat("bob")
    game.leave("bob")
    assert finish(game) == {}
    game.sit("eve", "table")
    game.sit("ada", "table")
    game.bet("eve", 1, 10)
    game.leave("ada")
    assert game.phase is not Phase.BETS


# --- tables in a cluster --------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_table_plays_by_itself_and_needs_no_memory_when_all_have_left() -> None:
    config = rio.ServerConfig(idle_after=5.0)
    async with LocalCluster(registry, nodes=1, config=config) as cluster:
        table = cluster.client.ref(Table, "t")
        async with cluster.client.subscribe(Table, "t", View) as views:
            await table.sit(Sit("ada"))
            await table.bet(Bet("ada", 1, 10))
            while (await anext(views)).seats[0].outcome is None:
                pass
        await table.leave(Leave("ada"))
        await until(lambda: not cluster.nodes[0].statistics().live_objects)


@pytest.mark.virtual_time
async def test_the_casino_opens_a_table_when_all_seats_are_taken() -> None:
    async with LocalCluster(registry, nodes=2) as cluster:
        casino = cluster.client.ref(Casino, CASINO)
        seats = [await casino.admit(Admit(f"player-{number}")) for number in range(SEATS + 1)]
        assert seats == ["table-1"] * SEATS + ["table-2"]
        assert await casino.admit(Admit("player-0")) == "table-1"
        with pytest.raises(TableFull):
            await casino.admit(Admit("eve", "table-1"))
        await cluster.client.ref(Table, "table-1").leave(Leave("player-2"))
        assert await casino.admit(Admit("eve")) == "table-1"


@pytest.mark.virtual_time
@pytest.mark.parametrize("moves", range(5))
async def test_no_move_is_lost_or_played_twice_when_the_server_is_killed(moves: int) -> None:
    """Whichever move was answered last before."""
    async with LocalCluster(registry, nodes=2) as cluster:
        await cluster.client.ref(Casino, CASINO).open(Open("t", House(patience=60.0, seed=604)))
        table = cluster.client.ref(Table, "t")
        plan = [Bet("ada", 1, 10), Hit("ada", 2), Stand("ada", 3)]
        views = [await table.sit(Sit("ada"))]
        for number in range(5):
            if number == moves:
                await cluster.kill(await cluster.home(Table, "t"))
                view = await table.look(Look())
                assert view.step >= views[-1].step
                if view.phase is views[-1].phase:
                    assert view.seats == views[-1].seats
            if number < len(plan):
                views.append(await cluster.client.send(Table, "t", plan[number]))
        async with cluster.client.subscribe(Table, "t", View) as events:
            view = await table.look(Look())
            while view.phase is not Phase.BETS:
                view = await anext(events)
    game = Game(house=House(seed=604))
    game.sit("ada", "t")
    game.bet("ada", 1, 10)
    game.hit("ada", 2)
    game.stand("ada", 3)
    finish(game)
    assert (view.seats, view.dealer) == (game.seats, game.dealer)


async def test_the_adviser_thinks_while_the_table_goes_on() -> None:
    async with LocalCluster(registry, nodes=1) as cluster:
        await cluster.client.ref(Casino, CASINO).open(Open("t", House(patience=60.0, seed=604)))
        table = cluster.client.ref(Table, "t")
        await table.sit(Sit("ada"))
        adviser = cluster.client.ref(Adviser, "ada")
        with pytest.raises(Refused, match="it is not your turn"):
            await adviser.advise(Advise("ada", "t"))
        await table.bet(Bet("ada", 1, 10))
        thinking = adviser.advise(Advise("ada", "t"))
        assert (await table.look(Look())).turn == "ada"
        odds = await thinking
        assert 0.0 < odds.stand < 1.0
        assert 0.0 < odds.hit < 1.0


# --- terminals ------------------------------------------------------------------------------------


class Player(Running):
    """The terminal of one player."""

    def __init__(self, name: str, storage: str, directory: Path) -> None:
        super().__init__(
            *("--storage", storage, "--table", "slow", "--name", name),
            cwd=ROOT,
            errors_in=directory,
            module="examples.black_jack.play",
        )
        self.shown: list[str] = []

    def until(self, text: str) -> str:
        """Wait for a line with this text."""
        while text not in (line := self.line()):
            self.shown.append(line)
        self.shown.append(line)
        return line


def test_a_game_in_terminals_goes_on_when_its_server_is_killed(tmp_path: Path) -> None:
    readme = (ROOT / "examples" / "black_jack" / "README.md").read_text()
    storage = f"sqlite:///{tmp_path / 'casino.db'}"
    serve = ("run", "examples.black_jack.service:registry", "--storage", storage)
    with (
        Running(*serve, "--cluster", "local", cwd=ROOT, errors_in=tmp_path) as one,
        Running(*serve, "--cluster", "local", cwd=ROOT, errors_in=tmp_path) as two,
    ):
        servers = {one.address(): one, two.address(): two}
        house = re.search(r"Open '(.*)'", readme)
        assert house
        opened = command("send", "Casino", CASINO, "Open", house[1], "--storage", storage, cwd=ROOT)
        assert opened.stdout == "null\n", opened.stderr
        with Player("ada", storage, tmp_path) as ada:
            ada.until("your bet?")  # whoever sits down first has the first turn
            with Player("bob", storage, tmp_path) as bob:
                play(ada, bob, servers)
    blocks = re.findall(r"```\n(.*?)```", readme, re.DOTALL)[3:]
    shown = [line for block in blocks for line in block.splitlines()]
    assert [line for line in shown if line not in ada.shown] == ["slow on 127.0.0.1:33445"]


def play(ada: Player, bob: Player, servers: dict[str, Running]) -> None:
    """A round, in which the server of the table is killed."""
    bob.until("your bet?")
    ada.type("10")
    bob.type("20")
    ada.until("hit or stand")
    ada.type("h")
    ada.until("7♦ 6♦ 7♣ = 20")
    ada.until("hit or stand")
    address = [line for line in ada.shown if line.startswith("slow on ")][-1].split()[-1]
    servers[address].signal(signal.SIGKILL)
    ada.type("s")
    bob.until("hit or stand")
    bob.type("q")
    ada.until("your bet?")
    ada.type("q")
    assert (ada.until("leaves"), bob.until("leaves")) == (
        "ada leaves with 110 chips",
        "bob leaves with 80 chips",
    )
    assert (ada.ended(), bob.ended()) == (0, 0)
    assert (ada.errors(), bob.errors()) == ("", "")
