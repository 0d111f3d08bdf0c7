"""The two ways a command may fail, and nothing else: your input is wrong, or the run broke on the way."""

from __future__ import annotations


class UserError(Exception):
    """The user's input is wrong. Printed without a traceback; exit code 2; nothing has been written.

    Args:
        key: where the mistake is, as the user would write it (``stages.distil.epochs``, ``--suite``, a path).
        value: what stands there.
        reason: why it cannot be used.
        remedy: what to write instead.
    """

    def __init__(self, key: str, value: object, reason: str, remedy: str) -> None:
        self.key, self.value, self.reason, self.remedy = key, value, reason, remedy
        shown = "" if value is None else f" = {value!r}"
        super().__init__(f"{key}{shown}: {reason}\n  remedy: {remedy}")


class RunFailed(Exception):
    """The run broke for a reason outside the input (full disk, lost engine). Exit code 1; the run resumes.

    Args:
        then: what to do next, in one line; to be given where the same command would only break again.
    """

    def __init__(
        self, reason: str, then: str = "What was finished is kept; the same command goes on from there."
    ) -> None:
        self.then = then
        super().__init__(reason)
