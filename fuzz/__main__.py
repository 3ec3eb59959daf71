"""``python -m fuzz [--minutes M | --conversations N] [--seed S] [--replay FILE] [TARGET ...]``"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import importlib
import logging
import mmap
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from fuzz.mutator import Mutator

TARGETS = ("reader", "dispatcher", "client", "gossip", "hello", "security_file", "server")
CORPUS = Path(__file__).with_name("corpus")
FAILURES = Path(__file__).with_name("failures")
NOTE_SIZE = 4 * 1024 * 1024
GROWTH = (512 if os.environ.get("RIO_SANITIZE") == "1" else 64) * 1024 * 1024
"""Bytes by which a process that fuzzes may grow after its first executions. The sanitizers'
allocator takes 150 MB more in a minute, and stays there.
"""


def load(target: str) -> tuple[Any, list[bytes]]:
    module = importlib.import_module(f"fuzz.{target}")
    return module.Target(), module.CORPUS


def saved(target: str) -> list[Path]:
    """The conversations of the corpus: each has broken something once."""
    return sorted((CORPUS / target).glob("*"))


def fuzz(target: str, *, seconds: float, conversations: int, seed: int, note: Any) -> int:
    """Run one target in this process, for a time or for so many conversations. Returns how many
    executions that were.
    """
    runner, corpus = load(target)
    mutator = Mutator(corpus, seed, is_text=target == "security_file")
    begun = time.monotonic()
    done = count = least = 0
    try:
        while count < conversations and time.monotonic() - begun < seconds:
            count += 1
            conversation = runner.make(mutator)
            if note is not None:
                note[: len(conversation) + 4] = len(conversation).to_bytes(4, "big") + conversation
            done += runner.run(conversation)
            if count & 0xFF == 0:
                least = least or resident()
                assert resident() < least + GROWTH, "this process grows"
    finally:
        runner.close()
    took = sum(os.times()[:4])  # with the processes that it has started
    print(f"{target:14} {done:12,} executions in {took:8.1f} s of processor time", flush=True)
    return done


def resident() -> int:
    if not os.path.exists("/proc/self/statm"):
        return 0
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def replay(path: Path) -> None:
    """Handle one conversation that was saved, whose file name begins with its target."""
    target = path.parent.name if path.parent.parent == CORPUS else path.name.split("-")[0]
    runner, _ = load(target)
    try:
        runner.run(path.read_bytes())
    finally:
        runner.close()


# --- the parent process: it keeps what ends the other ---------------------------------------------


def supervise(target: str, arguments: list[str]) -> bool:
    """Run one target in a process of its own. Returns whether nothing was found; what breaks
    something is kept in a file.
    """
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(NOTE_SIZE)
        command = [sys.executable, "-m", "fuzz", *arguments, "--note", file.name, target]
        done = subprocess.run(command)
        if done.returncode == 0:
            return True
        size = int.from_bytes(file.read(4), "big")
        conversation = file.read(size)
    FAILURES.mkdir(exist_ok=True)
    path = FAILURES / f"{target}-{hashlib.sha256(conversation).hexdigest()[:12]}"
    path.write_bytes(conversation)
    print(f"{target} has found something (exit code {done.returncode}); it happens again with")
    print(f"    make fuzz REPLAY={path.relative_to(Path.cwd())}")
    return False


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz")
    parser.add_argument("--minutes", type=float, default=0, help="for all targets together")
    parser.add_argument("--conversations", type=int, default=0, help="for each target")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--replay", type=Path)
    parser.add_argument("--note", help=argparse.SUPPRESS)
    parser.add_argument("targets", nargs="*", choices=[[], *TARGETS])
    given = parser.parse_args()
    if given.replay:
        replay(given.replay.absolute())
        return 0
    targets = given.targets or TARGETS
    seconds = given.minutes * 60 / len(targets) or (float("inf") if given.conversations else 60)
    seed = int.from_bytes(os.urandom(4)) if given.seed is None else given.seed
    if given.note:
        with open(given.note, "r+b") as file:
            note = mmap.mmap(file.fileno(), NOTE_SIZE)
        limit = given.conversations or sys.maxsize
        [target] = targets
        try:
            fuzz(target, seconds=seconds, conversations=limit, seed=seed, note=note)
        except Exception:
            traceback.print_exc()
            return 1
        return 0
    print(f"seed {seed}")
    arguments = [
        f"--minutes={0 if seconds == float('inf') else seconds / 60}",
        f"--conversations={given.conversations}",
        f"--seed={seed}",
    ]
    found = [target for target in targets if not supervise(target, arguments)]
    return 1 if found else 0


if __name__ == "__main__":
    faulthandler.enable()
    logging.getLogger("rio").addHandler(logging.NullHandler())
    logging.getLogger("rio").propagate = False
    sys.exit(main())
