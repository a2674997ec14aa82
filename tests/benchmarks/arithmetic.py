"""What is computed from what was measured: percentiles, pauses, and CPU time by share. No I/O."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest of the ordered samples that at least `share` of them do not exceed; never interpolated."""
    if not ordered:
        return math.nan
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def median(ordered: Sequence[float]) -> float:
    """The middle, or the mean of the two in the middle."""
    if not ordered:
        return math.nan
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def longest_pause(moments: Sequence[float], begin: float, end: float) -> float:
    """The longest time between neighbours among the ordered moments that lies at least partly in [begin, end].

    What began before `begin` counts from its beginning, and what `end` cuts off counts up to there: a pause that never
    ended is not overlooked.
    """
    first = max(bisect_right(moments, begin) - 1, 0)
    inside = [*moments[first : bisect_left(moments, end)], end]
    if len(inside) == 1 or inside[0] > begin:
        inside.insert(0, begin)
    return max(after - before for before, after in pairwise(inside))


def growth(values: Sequence[float]) -> float:
    """The end of the line through equally spaced values, as a multiple of its beginning (least squares).

    1 is flat. What comes and goes in between counts little; NaN if there are fewer than two, or no such line.
    """
    count = len(values)
    if count < 2:
        return math.nan
    middle, mean = (count - 1) / 2, sum(values) / count
    slope = sum((place - middle) * value for place, value in enumerate(values))
    slope /= sum((place - middle) ** 2 for place in range(count))
    begin, end = mean - slope * middle, mean + slope * middle
    return end / begin if begin > 0 else math.nan


def cpu_per_1000(before: Mapping[str, float], after: Mapping[str, float], count: int) -> dict[str, float]:
    """CPU-seconds spent per 1,000 of what was counted, by part; a part that came later counts from zero."""
    if not count:
        return {}
    return {part: (seconds - before.get(part, 0.0)) * 1000 / count for part, seconds in after.items()}


def highest_bucket(before: Mapping[float, float], after: Mapping[float, float]) -> float:
    """The upper bound of what was counted meanwhile, of cumulative counts by upper bound; 0 if nothing was."""
    since = {bound: count - before.get(bound, 0.0) for bound, count in after.items()}
    total = max(since.values(), default=0.0)
    return min((bound for bound, count in since.items() if count == total), default=0.0) if total else 0.0


def histogram(ordered: Sequence[float], step: float, width: int = 40) -> list[str]:
    """One line for each step of the scale from the lowest to the highest sample: its bounds, a bar and the number."""
    if not ordered:
        return []
    first, last = math.floor(ordered[0] / step), math.floor(ordered[-1] / step)
    counts = [0] * (last - first + 1)
    for sample in ordered:
        counts[math.floor(sample / step) - first] += 1
    highest = max(counts)
    return [
        f"{(first + place) * step:7.0f} to {(first + place + 1) * step:5.0f}  "
        f"{'#' * math.ceil(count * width / highest)} {count}"
        for place, count in enumerate(counts)
    ]
