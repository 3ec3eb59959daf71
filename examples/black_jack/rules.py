"""The rules of black jack, and nothing else: no table, no server, no clock.

A card is its rank and its suit, as ``"10♥"``. A hand is a list of cards.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from enum import StrEnum

SUITS = ("♠", "♥", "♦", "♣")
POINTS = {"A": 1, **{str(n): n for n in range(2, 11)}, "J": 10, "Q": 10, "K": 10}
DECK = [rank + suit for suit in SUITS for rank in POINTS]


class Outcome(StrEnum):
    BLACKJACK = "blackjack"
    WON = "won"
    PUSH = "push"
    LOST = "lost"
    BUST = "bust"


def new_shoe(seed: int | None = None, decks: int = 6) -> list[str]:
    """Shuffled decks. The same seed gives the same order; without one, nobody knows it."""
    shoe = DECK * decks
    random.Random(seed).shuffle(shoe)
    return shoe


def points(hand: Sequence[str]) -> int:
    """An ace counts 11 as long as the hand is not bust by that, else 1."""
    ranks = [card[:-1] for card in hand]
    total = sum(POINTS[rank] for rank in ranks)
    return total + 10 if "A" in ranks and total <= 11 else total


def is_bust(hand: Sequence[str]) -> bool:
    return points(hand) > 21


def is_blackjack(hand: Sequence[str]) -> bool:
    """An ace and a ten at once: more than any other 21."""
    return len(hand) == 2 and points(hand) == 21


def dealer_draws(hand: Sequence[str]) -> bool:
    """The dealer has no choice: draw up to 16, stand on every 17."""
    return points(hand) < 17


def compare(hand: Sequence[str], dealer: Sequence[str]) -> Outcome:
    """How a player's hand fares against the dealer's, once both have been played."""
    if is_bust(hand):
        return Outcome.BUST  # also if the dealer is bust
    if is_blackjack(hand) != is_blackjack(dealer):
        return Outcome.BLACKJACK if is_blackjack(hand) else Outcome.LOST
    if is_bust(dealer) or points(hand) > points(dealer):
        return Outcome.WON
    return Outcome.PUSH if points(hand) == points(dealer) else Outcome.LOST


def payout(bet: int, outcome: Outcome) -> int:
    """The chips that go back to the player: a blackjack pays 3 to 2, rounded down."""
    match outcome:
        case Outcome.BLACKJACK:
            return bet + bet * 3 // 2
        case Outcome.WON:
            return 2 * bet
        case Outcome.PUSH:
            return bet
        case _:
            return 0


def chance(hand: Sequence[str], dealer_card: str, *, hit: bool, games: int = 5_000) -> float:
    """The share of games that the hand wins, and half of those that end in a push, if its player
    hits or stands now, and from then on hits up to 16. This takes a while: it plays the games.
    """
    cards = _endless_shoe()
    won = 0.0
    for _ in range(games):
        mine, dealer = list(hand), [dealer_card]
        if hit:
            mine.append(next(cards))
            while dealer_draws(mine):
                mine.append(next(cards))
        while dealer_draws(dealer):
            dealer.append(next(cards))
        outcome = compare(mine, dealer)
        won += outcome in (Outcome.WON, Outcome.BLACKJACK)
        won += (outcome is Outcome.PUSH) / 2
    return won / games


def _endless_shoe() -> Iterator[str]:
    while True:
        yield random.choice(DECK)
