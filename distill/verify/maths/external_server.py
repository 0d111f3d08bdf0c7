"""The process that imports math-verify: run as a script by ``distill.verify.maths.external``.

A line of JSON ``[reference, answer, seconds]`` in, a line ``{"equal": bool}`` or ``{"error": text}`` out, one at a
time. The timer kills the process when a comparison takes too long: a signal handler would only run between
bytecodes.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from typing import Any

MEMORY = 4 << 30  # address space; sympy on a sane answer stays under 0.3 GiB


def _far_apart(gold: list[Any], given: list[Any]) -> bool:
    """Whether two plain numbers differ by more than rounding: the library rounds to six decimals, so that all tiny
    numbers are 0 to it."""
    if not (
        gold and given and getattr(gold[0], "is_number", False) and getattr(given[0], "is_number", False)
    ):
        return False
    try:
        left, right = complex(gold[0]), complex(given[0])
    except TypeError:  # a percent, kept as a product that is not worked out
        return False
    return 0 < max(abs(left), abs(right)) < 0.1 and abs(left - right) > 1e-5 * max(abs(left), abs(right))


def main() -> None:
    """Answer until standard input ends; die by SIGALRM when a comparison takes more than its ``seconds``."""
    from math_verify import parse, verify

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def parsed(text: str) -> list[Any]:
        # In a box, as the library expects: bare text would be searched for an answer. Its own timers are
        # off: ours is the process's only one.
        found: list[Any] = parse(rf"\boxed{{{text}}}", parsing_timeout=None)
        return found

    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        reference, answer, seconds = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            gold, given = parsed(reference), parsed(answer)
            equal = verify(gold, given, timeout_seconds=None, raise_on_error=True) and not _far_apart(
                gold, given
            )
            told: dict[str, Any] = {"equal": bool(equal)}
        except Exception as error:
            told = {"error": f"{type(error).__name__}: {error}"[:200]}
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
