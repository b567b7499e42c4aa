"""wrk as the yardstick: how many requests a second the server answers to somebody who does nothing but ask.

wrk runs for some seconds and knows no list of requests; a script in Lua hands it the list, round and round, each of its
threads from another place. The list is shuffled (always in the same way), so that a part of it is as costly as the whole.
The time for the list is then its length by the requests a second.

wrk waits for the body that the answer to a HEAD only announces, and so never ends with one: `replay.py` replays those.
"""

from __future__ import annotations

import random
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

from recording import Sent

_THREADS = 2
_SCRIPT = """
local list = {{
{lines}
}}
local number = 0
function setup(thread)
  thread:set("start", math.floor(number * #list / {threads}))
  number = number + 1
end
function init(args)
  made = {{}}
  for at, one in ipairs(list) do made[at] = wrk.format(one[1], one[2], {{ ["Accept"] = one[3] }}) end
  at = start
end
function request()
  at = at % #made + 1
  return made[at]
end
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What wrk says of its run."""

    requests: int
    per_second: float
    failed: int


def script(sent: Sequence[Sent], threads: int = _THREADS) -> str:
    """Return the Lua script that replays requests, shuffled, for as long as wrk runs."""
    mixed = list(sent)
    random.Random(1).shuffle(mixed)
    lines = "\n".join(f"{{{_quoted(one.method)}, {_quoted(one.path)}, {_quoted(one.accept)}}}," for one in mixed)
    return _SCRIPT.format(lines=lines, threads=threads)


def _quoted(text: str) -> str:
    """Return a string of Lua; bytes outside plain ASCII are written as numbers."""
    plain = (chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\' else f"\\{byte:03}" for byte in text.encode())
    return f'"{"".join(plain)}"'


def parse(output: str) -> Outcome:
    """Read wrk's summary."""
    total = re.search(r"^\s*(\d+) requests in ", output, re.MULTILINE)
    speed = re.search(r"^Requests/sec:\s*([\d.]+)", output, re.MULTILINE)
    if total is None or speed is None:
        raise ValueError(f"this is no summary of wrk:\n{output}")
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    wrong = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    failed = sum(int(found) for match in (errors, wrong) if match for found in match.groups())
    return Outcome(int(total[1]), float(speed[1]), failed)


def run(host: str, sent: Sequence[Sent], *, connections: int, seconds: float) -> Outcome:
    """Replay requests over so many connections, and return how fast that went.

    Raises
    ------
    RuntimeError
        More failed than the list itself has in it: a few, such as the question for referrers, are answered by 404.
    """
    threads = min(_THREADS, connections)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script(sent, threads))
        file.flush()
        options = [f"-t{threads}", f"-c{connections}", f"-d{max(round(seconds), 1)}s", "-s", file.name]
        done = subprocess.run(["wrk", *options, f"http://{host}"], capture_output=True, text=True, check=True)
    outcome = parse(done.stdout)
    if outcome.failed > outcome.requests * 0.01:
        raise RuntimeError(f"wrk: {outcome.failed} of {outcome.requests} failed:\n{done.stdout}")
    return outcome


__all__ = ["Outcome", "parse", "run", "script"]
