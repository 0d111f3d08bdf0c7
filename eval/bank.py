"""A suite's problems, for recorded responses that answer them."""

from __future__ import annotations

from collections.abc import Iterable

from distill.records import Problem


class Bank:
    """A suite's problems, found by a row's text or else by its id."""

    def __init__(self, name: str, problems: Iterable[Problem]) -> None:
        self.name = name
        self.problems = list(problems)
        self._by_id = {problem.id: problem for problem in self.problems}
        self._by_text: dict[str, list[Problem]] = {}
        for problem in self.problems:
            self._by_text.setdefault(_plain(problem.problem), []).append(problem)

    def find(self, problem_id: str | None, text: str | None, from_log: bool) -> Problem | None:
        """By ``from_log`` a tool numbered the problems itself: that says nothing about this suite's ids.

        Of problems with one text the id tells which; a choice whose text is another may have its letters elsewhere.
        """
        found = self._by_text.get(_plain(text), []) if text else []
        if len(found) == 1:
            return found[0]
        if problem_id is None or (from_log and text):
            return None
        by_id = self._by_id.get(problem_id)
        if (
            by_id is not None
            and text
            and by_id.kind == "choice"
            and _plain(by_id.problem) not in _plain(text)
        ):
            return None
        return by_id


def _plain(text: str) -> str:
    return " ".join(text.split())
