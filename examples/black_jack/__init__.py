"""Black jack: tables that play by themselves, a casino that opens them, and a terminal to play."""
