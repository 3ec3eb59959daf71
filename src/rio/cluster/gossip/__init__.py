"""How the members of a cluster talk to each other: SWIM, with Lifeguard's refinements.

A state machine without a socket, a clock or a task; ``runner`` gives it all three.
"""
