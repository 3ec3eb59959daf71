"""``python -m rio`` is the command ``rio``."""

import sys

from rio.cli import main

if __name__ == "__main__":
    sys.exit(main())
