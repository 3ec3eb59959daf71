"""Wrong input, made in quantity: ``make fuzz MINUTES=10``, and ``docs/security.md`` for what it has
shown.

Each module but :mod:`fuzz.mutator` is a target. Its ``CORPUS`` is what peers say to each other, one
piece for each kind of frame, and what once broke something, in ``fuzz/corpus``. Its ``Target`` is
given *conversations*: ``make(mutator)`` makes one out of mutated pieces, and ``run(conversation)``
has it handled, checks what must hold, and says how many mutated pieces were handled. Such a piece
(a frame, a stream, a state, a file) is what this page and the figures call an execution: each was
mutated independently of the others.

A target raises nothing but :class:`AssertionError`, and this where something is wrong.
"""
