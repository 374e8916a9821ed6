"""Starts of the program without the seconds that loading it takes: this one loads it once and forks it on demand.

One order a line on standard input, as JSON: `words` of the command line, `environment`, `log`, and `skew_s`, by which
the clock of its machine is ahead. One pid a line on standard output. What it has started ends with it, and it ends with
its standard input.
"""

import ctypes
import json
import os
import signal
import sys
from datetime import timedelta
from typing import Any

import portal.__main__ as program
import portal.server
from portal import clock

_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are not kept
    assert portal.server
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(order)
        print(pid, flush=True)


def _become(order: dict[str, Any]) -> None:
    ctypes.CDLL(None).prctl(_WITH_PARENT, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number, file in ((0, nothing), (1, log), (2, log)):
        os.dup2(file, number)
    os.environ.update(order["environment"])
    if order["skew_s"]:
        skew = timedelta(seconds=order["skew_s"])
        right = clock.machine
        clock.machine = lambda: right() + skew
    sys.argv = ["portal", *order["words"]]
    try:
        program.app()
    finally:
        os._exit(0)


if __name__ == "__main__":
    main()
