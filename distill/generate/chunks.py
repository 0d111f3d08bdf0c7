"""Generation that can be killed: requests go through the engine in fixed chunks, each written as it ends.

Chunks are cut at multiples of `chunk_rows` from the first request, whatever the moment of a kill, and a chunk
is kept whole or done again: so the rows do not depend on when, or how often, the work was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from distill.errors import RunFailed
from distill.generate.engine import Engine, Request, in_order
from distill.recipe_parts import Sampling
from distill.records import Completion
from distill.runs import Progress
from distill.shards import append_rows, keep_first, read_rows, repair

#: Requests between two writes where each stands alone.
ALONE = 64


def run_chunks(
    requests: Sequence[Request],
    engine: Engine,
    sampling: Sampling,
    path: Path,
    make_rows: Callable[[list[Request], list[Completion]], list[dict[str, Any]]],
    progress: Progress,
) -> None:
    """Complete every request that the shard at ``path`` does not hold yet, and append the rows in order.

    Args:
        requests: all of them, the same at each restart.
        engine: what completes them.
        sampling: how.
        path: the shard; its whole chunks are kept, the rows of an unfinished one dropped and made again.
        make_rows: turns a chunk and its completions into exactly one row for each request.
        progress: counts requests.

    Raises:
        RunFailed: the shard holds more rows than there are requests, or a broken line.
    """
    chunk_rows = engine.together or ALONE
    done = _whole_chunks(path, len(requests), chunk_rows)
    progress.skip(done)
    for start in range(done, len(requests), chunk_rows):
        chunk = list(requests[start : start + chunk_rows])
        completions = in_order(chunk, _counted(engine.generate(chunk, sampling), progress))
        rows = make_rows(chunk, completions)
        assert len(rows) == len(chunk), f"{len(rows)} rows of {len(chunk)} requests"
        append_rows(path, rows)


def _counted(completions: Iterator[Completion], progress: Progress) -> Iterator[Completion]:
    for completion in completions:
        progress.advance()
        yield completion


def _whole_chunks(path: Path, requests: int, chunk_rows: int) -> int:
    """Cut the shard down to whole chunks (the last of all may be short) and say how many rows these are."""
    repair(path)
    found = sum(1 for _ in read_rows(path)) if path.exists() else 0
    if found > requests:
        raise RunFailed(
            f"{path}: holds {found} rows of {requests} requests; it belongs to other work, remove it"
        )
    done = found if found == requests else found - found % chunk_rows
    if done < found:
        keep_first(path, done)
    return done
