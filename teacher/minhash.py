"""Which texts are nearly the same: MinHash (Broder 1997) and buckets of equal bands (Indyk and Motwani 1998).

Likeness is the Jaccard index of the sets of runs of SHINGLE words. A signature's share of equal places estimates it,
with a standard error of ``sqrt(J (1 - J) / PLACES)``: 0.037 at J = 0.8. Two texts are compared when one of BANDS bands
of their signatures is equal: at J = 0.8 one pair in 400 is missed, at 0.9 none in a billion; below J = 0.3 one in 70 is
compared, for nothing. Time is linear in the texts, but for the sorting of bands.

Legend: B texts, K = PLACES places of a signature, N runs of words of a text.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from teacher.shingles import hash_runs, words

Signatures = npt.NDArray[np.uint32]

SHINGLE = 5
BANDS, ROWS = 20, 6
PLACES = BANDS * ROWS
NEIGHBOURS = 4  # in a bucket, each text is compared with the first and with so many before it
_CHUNK = 4096
_RUNS = 512  # runs mixed at a time: so that a signature's table stays in the cache

# Constants of the signature, not settings: another seed would make stored signatures worthless.
_random = np.random.default_rng(20_010_101)
_FACTORS_K = _random.integers(1, 2**63, PLACES, dtype=np.uint64) | np.uint64(1)
_TERMS_K = _random.integers(0, 2**63, PLACES, dtype=np.uint64)


def signature(text: str, of_text: list[str] | None = None) -> Signatures:
    """The signature of one text [K]. A text of fewer than SHINGLE words is one run; a text without words is alone.

    Args:
        of_text: its words, where they are known already.
    """
    of_text = words(text) if of_text is None else of_text
    runs_N = np.unique(hash_runs(of_text, min(SHINGLE, max(len(of_text), 1))))
    if not len(runs_N):
        runs_N = np.frombuffer(text.encode("utf-8", "surrogatepass").ljust(8, b"\0")[-8:], np.uint64)
    least_K = np.full(PLACES, np.iinfo(np.uint32).max, np.uint32)
    for start in range(0, len(runs_N), _RUNS):
        some_N = runs_N[start : start + _RUNS]
        mixed_KN = (_FACTORS_K[:, None] * some_N + _TERMS_K[:, None]) >> np.uint64(32)
        least_K = np.minimum(least_K, mixed_KN.min(1).astype(np.uint32))
    return least_K


def likeness(one_K: Signatures, other_K: Signatures) -> float:
    """The estimated Jaccard index of two texts."""
    return float((one_K == other_K).mean())


def similar_pairs(
    signatures_BK: Signatures, rows: npt.NDArray[np.int64], least: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Pairs of texts that share a bucket and are alike by ``least``, and how alike they are.

    Not every pair of a large bucket is looked at: each text meets the bucket's first and the NEIGHBOURS before it.

    Args:
        rows: of the signatures, those to look at, in the order that says which of two texts is the later one.

    Returns:
        Pairs (later, earlier) of places in ``rows``, sorted.
    """
    size = len(rows)
    found = np.empty(0, np.int64)
    places = np.arange(size)
    for band in range(BANDS if size else 0):
        codes = _band_codes(signatures_BK[rows, band * ROWS : (band + 1) * ROWS])
        order = np.argsort(codes, kind="stable")  # stable: within a bucket in the order of rows
        ends = np.flatnonzero(np.diff(codes[order])) + 1
        starts = np.repeat(np.r_[0, ends], np.diff(np.r_[0, ends, size]))
        met = []
        for step in range(NEIGHBOURS + 1):
            before = starts if step == 0 else places - step
            inside = (before >= starts) & (before < places)
            met.append(order[places[inside]] * size + order[before[inside]])
        pairs = np.setdiff1d(np.concatenate(met), found)
        found = np.union1d(found, pairs[_alike(signatures_BK, rows, pairs) >= least])
    return np.stack(np.divmod(found, max(size, 1)), 1), _alike(signatures_BK, rows, found)


def _band_codes(band_BR: Signatures) -> npt.NDArray[np.uint64]:
    codes_B = np.zeros(len(band_BR), np.uint64)
    for place in range(ROWS):
        codes_B = (codes_B ^ band_BR[:, place]) * np.uint64(0x9E3779B97F4A7C15)
        codes_B ^= codes_B >> np.uint64(29)
    return codes_B


def _alike(
    signatures_BK: Signatures, rows: npt.NDArray[np.int64], pairs: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    alike = np.empty(len(pairs))
    for start in range(0, len(pairs), _CHUNK):
        later, earlier = np.divmod(pairs[start : start + _CHUNK], len(rows))
        alike[start : start + _CHUNK] = (signatures_BK[rows[later]] == signatures_BK[rows[earlier]]).mean(1)
    return alike
