"""What fits: the largest setting that does, and the nearest change of a recipe after which it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

Settings = dict[str, object]
Steps = Sequence[tuple[str, Sequence[object]]]


def largest(fits: Callable[[int], bool], high: int) -> int:
    """The largest whole number up to ``high`` that fits, by bisection; 0 if not even 1 does.

    What fits must go on fitting when it gets smaller.
    """
    low = 0
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def nearest_change(
    now: Mapping[str, object], steps: Steps, fits: Callable[[Settings], bool]
) -> Settings | None:
    """The settings to change so that it fits, none dearer than needed; None where no change of these is enough.

    Args:
        now: the settings as they are.
        steps: keys with the values to try, from the cheapest change to the dearest.

    Changes pile up in that order until it fits. Then each but the last is taken back again, the dearest first, or made
    milder, where it fits without: so a dearer kind of change is made only when all cheaper ones together fall short.
    """
    changes: Settings = {}
    for key, values in steps:
        for value in values:
            if fits({**now, **changes, key: value}):
                changes[key] = value
                return _fewest(now, changes, steps, fits)
        if values and not key.startswith(
            "hardware."
        ):  # a machine that is still too small is no help to the next
            changes[key] = values[-1]
    return None


def _fewest(
    now: Mapping[str, object], changes: Settings, steps: Steps, fits: Callable[[Settings], bool]
) -> Settings:
    last = list(changes)[-1]
    for key, values in reversed(list(steps)):
        if key not in changes or key == last:
            continue
        without = {other: value for other, value in changes.items() if other != key}
        if fits({**now, **without}):
            changes = without
            continue
        for milder in values:
            if fits({**now, **changes, key: milder}):
                changes[key] = milder
                break
    return changes
