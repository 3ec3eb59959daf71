"""The state of a table, and what may happen at it: whose turn it is, and what follows from a move.

Nothing here waits, sends or saves: :mod:`examples.black_jack.service` does.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

import rio
from examples.black_jack import rules

SEATS = 5
CHIPS = 100
"""What the house lends to everybody who sits down."""
PATIENCE_WITH_ABSENT = 3
"""The rounds without a bet after which a player loses the seat."""


class Refused(rio.ApplicationError, type_name="black_jack.Refused"):
    """The rules do not allow this move. Nothing has changed."""

    message: str


class TableFull(rio.ApplicationError):
    table: str


class Phase(StrEnum):
    BETS = "bets"
    """Players bet. The hands of the last round still lie on the table."""
    PLAYERS = "players"
    """One player after the other hits or stands."""
    DEALER = "dealer"
    """The dealer draws, then pays."""


class House(msgspec.Struct, frozen=True):
    """How a table is run."""

    pace: float = 0.5
    """The seconds between two cards of the dealer."""
    patience: float = 30.0
    """The seconds that a player has for a bet or a move."""
    seed: int | None = None
    """Where the cards begin, for tables that are tested."""


class Seat(msgspec.Struct):
    player: str
    chips: int = CHIPS
    bet: int = 0
    hand: list[str] = msgspec.field(default_factory=list)
    stands: bool = False
    outcome: rules.Outcome | None = None
    """Of the last round, until the next one begins."""
    moves: int = 0
    """How many bets and moves of this player the table has taken."""
    missed: int = 0
    """How many rounds in a row have begun without a bet."""


class Game(rio.State):
    house: House = House()
    seats: list[Seat] = msgspec.field(default_factory=list)
    dealer: list[str] = msgspec.field(default_factory=list)
    shoe: list[str] = msgspec.field(default_factory=list)
    phase: Phase = Phase.BETS
    step: int = 0
    """How often the table has changed."""

    # --- what players do --------------------------------------------------------------------------

    def sit(self, player: str, table: str) -> None:
        if any(seat.player == player for seat in self.seats):
            return
        if len(self.seats) == SEATS:
            raise TableFull(table)
        self.seats.append(Seat(player))

    def leave(self, player: str) -> None:
        """Whoever leaves in the middle of a round loses the bet."""
        self.seats = [seat for seat in self.seats if seat.player != player]
        self._begin_when_all_have_bet()
        self._end_turn()

    def bet(self, player: str, number: int, chips: int) -> None:
        seat = self.seat(player)
        if has_taken(seat, number):
            return
        if self.phase is not Phase.BETS or seat.bet:
            raise Refused("your bet has to wait for the next round")
        if not 1 <= chips <= seat.chips:
            raise Refused(f"you can bet 1 to {seat.chips} chips")
        seat.bet, seat.chips = chips, seat.chips - chips
        seat.moves, seat.missed = number, 0
        self._begin_when_all_have_bet()

    def hit(self, player: str, number: int) -> None:
        seat = self.seat(player)
        if has_taken(seat, number):
            return
        self._check_turn(seat)
        seat.moves = number
        seat.hand.append(self.shoe.pop())
        seat.stands = rules.points(seat.hand) >= 21
        self._end_turn()

    def stand(self, player: str, number: int) -> None:
        seat = self.seat(player)
        if has_taken(seat, number):
            return
        self._check_turn(seat)
        seat.moves, seat.stands = number, True
        self._end_turn()

    # --- what the croupier does -------------------------------------------------------------------

    def play_on(self, time_is_up: bool) -> bool:
        """Make the next move that needs no player, or the move of one who does not come.

        Returns whether there was any.
        """
        if self.phase is Phase.DEALER:
            if self._dealer_needs_a_card():
                self.dealer.append(self.shoe.pop())
            else:
                self._pay()
        elif not time_is_up:
            return False
        elif self.phase is Phase.BETS:
            self._begin()
        elif self.turn is not None:
            self.turn.stands = True
            self._end_turn()
        return True

    def _begin_when_all_have_bet(self) -> None:
        waiting = [seat for seat in self.seats if seat.chips and not seat.bet]
        if self.phase is Phase.BETS and self.seats and not waiting:
            self._begin()

    def _begin(self) -> None:
        """Begin a round with those who have bet, if anybody has."""
        for seat in self.seats:
            seat.missed += not seat.bet
        self.seats = [seat for seat in self.seats if seat.missed < PATIENCE_WITH_ABSENT]
        playing = [seat for seat in self.seats if seat.bet]
        if not playing:
            return
        if len(self.shoe) < len(rules.DECK):
            self.shoe = rules.new_shoe(self.house.seed)
        for seat in self.seats:
            seat.hand, seat.outcome = [], None
        self.dealer = []
        for hand in 2 * [*(seat.hand for seat in playing), self.dealer]:
            hand.append(self.shoe.pop())
        for seat in playing:
            seat.stands = rules.is_blackjack(seat.hand) or rules.is_blackjack(self.dealer)
        self.phase = Phase.PLAYERS
        self._end_turn()

    def _end_turn(self) -> None:
        if self.phase is Phase.PLAYERS and self.turn is None:
            self.phase = Phase.DEALER

    def _dealer_needs_a_card(self) -> bool:
        """Not if every hand has won or lost already."""
        open_hands = [
            seat.hand
            for seat in self.seats
            if seat.bet and not rules.is_bust(seat.hand) and not rules.is_blackjack(seat.hand)
        ]
        return bool(open_hands) and rules.dealer_draws(self.dealer)

    def _pay(self) -> None:
        for seat in self.seats:
            if seat.bet:
                seat.outcome = rules.compare(seat.hand, self.dealer)
                seat.chips += rules.payout(seat.bet, seat.outcome)
            seat.bet, seat.stands = 0, False
        self.phase = Phase.BETS

    # --- what there is to see ---------------------------------------------------------------------

    def seat(self, player: str) -> Seat:
        for seat in self.seats:
            if seat.player == player:
                return seat
        raise Refused(f"{player} does not sit at this table")

    @property
    def turn(self) -> Seat | None:
        """The seat whose player has to hit or to stand."""
        if self.phase is not Phase.PLAYERS:
            return None
        return next((seat for seat in self.seats if seat.bet and not seat.stands), None)

    @property
    def shown_by_dealer(self) -> list[str]:
        """The dealer's second card lies face down while players decide."""
        return [self.dealer[0], "??"] if self.phase is Phase.PLAYERS else self.dealer

    def _check_turn(self, seat: Seat) -> None:
        if seat is not self.turn:
            raise Refused("it is not your turn")


def has_taken(seat: Seat, number: int) -> bool:
    """Whether the table has taken this move already: then a message has come twice."""
    if number > seat.moves + 1:
        raise Refused(f"your next move is number {seat.moves + 1}, not {number}")
    return number <= seat.moves
