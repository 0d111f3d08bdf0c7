"""Tests that test code defines and does not run: functions named ``test...`` and the cases of `unittest`.

Standard library only: this runs in the sandbox's processes.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

_NO_PLAIN_CALL = 0x80 | 0x200  # the flags of a coroutine's code and of an asynchronous generator's


def run_defined(space: dict[str, Any], own: dict[str, Any], unfit: Callable[[str], BaseException]) -> None:
    """Run them in the order in which they were defined, but for those that are the program's ``own``.

    Raises:
        Exception: what the first test that fails raises; of `unittest`, AssertionError with its last line.
    """
    for name, value in list(space.items()):
        if value is own.get(name):
            continue
        if isinstance(value, types.FunctionType) and name.startswith("test"):
            code = value.__code__
            if code.co_argcount > len(value.__defaults__ or ()) or code.co_flags & _NO_PLAIN_CALL:
                raise unfit(f"the test function {name}, which needs arguments or an event loop")
            value()
        elif isinstance(value, type) and _is_case(value):
            _run_case(value)


def _is_case(kind: type) -> bool:
    module: Any = sys.modules.get("unittest")
    return module is not None and issubclass(kind, module.TestCase) and kind is not module.TestCase


def _run_case(kind: type) -> None:
    module: Any = sys.modules["unittest"]
    result = module.TestResult()
    module.defaultTestLoader.loadTestsFromTestCase(kind).run(result)
    for case, trace in (*result.failures, *result.errors):
        raise AssertionError(f"{case.id().rpartition('.')[2]}: {trace.strip().splitlines()[-1]}")
