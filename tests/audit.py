"""What ``make audit`` asks first: can the database of vulnerabilities be reached?

pip-audit asks pypi.org about each version of a package. A mirror that has the packages alone does
not answer that, and pip-audit then says of the first package that it is not there. This needs
nothing but Python.
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request

DATABASE = "https://pypi.org/pypi/pip/23.0/json"
"""A page of the database, of a version that has a vulnerability (PYSEC-2023-228)."""


def read_database(url: str) -> None:
    """Return if the page names a vulnerability.

    :raises OSError: nothing answered, or something else did.
    """
    try:
        with urllib.request.urlopen(url, timeout=30.0) as answer:
            page = json.load(answer)
    except urllib.error.HTTPError as error:
        error.close()  # it holds the answer
        raise
    except ValueError:
        page = None
    if not isinstance(page, dict) or not page.get("vulnerabilities"):
        raise OSError("the answer names no vulnerability, and there is one")


def main(url: str = DATABASE) -> int:
    try:
        read_database(url)
    except OSError as error:
        problem = "the database of vulnerabilities cannot be reached"
        print(f"nothing was audited: {problem}: {url}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
