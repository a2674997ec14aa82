"""Families of series that are cheaper, or bounded in ways that the library's are not.

What is written to with each log entry or call has no lock, for one thread writes, and finds its series by one look
into a dict. Labels that users name, as tasks and workflows, are bounded: what comes after `SERIES_MAX` of them is
summed under `OTHER`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import Self, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client import metrics_core as core
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

OTHER = "other"
SERIES_MAX = 100
"""Names of tasks or workflows that have series of their own."""

Labels = tuple[str, ...]
_Labels = TypeVar("_Labels", bound=Labels)


class Family(Collector):
    """One metric; `_labelnames`, as the library's have them."""

    def __init__(self, name: str, about: str, labels: Labels, registry: CollectorRegistry) -> None:
        self._name = name
        self._about = about
        self._labelnames = labels
        registry.register(self)

    def describe(self) -> Iterable[core.Metric]:
        return self.collect()


class _Buckets:
    """The series of one histogram."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def samples(self) -> list[tuple[str, float]]:
        bounds = [*map(floatToGoString, self.bounds), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self.counts)), strict=True))


class Histogram(Family):
    """Without labels."""

    def __init__(self, name: str, about: str, buckets: tuple[float, ...], registry: CollectorRegistry) -> None:
        self._series = _Buckets(buckets)
        self.observe: Callable[[float], None] = self._series.observe
        super().__init__(name, about, (), registry)

    def collect(self) -> Iterable[core.Metric]:
        series = self._series
        return [core.HistogramMetricFamily(self._name, self._about, buckets=series.samples(), sum_value=series.sum)]


class Histograms(Family):
    """With labels whose values are few by themselves, as those of methods."""

    def __init__(
        self, name: str, about: str, labels: Labels, buckets: tuple[float, ...], registry: CollectorRegistry
    ) -> None:
        self._buckets = buckets
        self._series: dict[Labels, _Buckets] = {}
        super().__init__(name, about, labels, registry)

    def of(self, *labels: str) -> Callable[[float], None]:
        """Takes the values of one series: to be kept by who observes."""
        series = self._series.get(labels)
        if series is None:
            series = self._series[labels] = _Buckets(self._buckets)
        return series.observe

    def collect(self) -> Iterable[core.Metric]:
        family = core.HistogramMetricFamily(self._name, self._about, labels=self._labelnames)
        for labels, series in self._series.items():
            family.add_metric(labels, buckets=series.samples(), sum_value=series.sum)
        return [family]


class Counts(Family):
    """Counters. `bounded` labels, the first ones, are named by users."""

    def __init__(self, name: str, about: str, labels: Labels, registry: CollectorRegistry, *, bounded: int = 0) -> None:
        # Without labels there is one series, from the beginning.
        self._counts: dict[Labels, float] = {} if labels else {(): 0.0}
        self._bounded = _Bounded(bounded)
        super().__init__(name, about, labels, registry)

    def inc(self, *labels: str) -> None:
        self.add(1, *labels)

    def add(self, count: int, *labels: str) -> None:
        counts = self._counts
        if labels in counts:
            counts[labels] += count
        else:
            labels = self._bounded.known(labels)
            counts[labels] = counts.get(labels, 0) + count

    def begin(self, *labels: str) -> Self:
        """The series is there from now on: what is counted first is a change, too."""
        self._counts.setdefault(labels, 0.0)
        return self

    def collect(self) -> Iterable[core.Metric]:
        family = core.CounterMetricFamily(self._name, self._about, labels=self._labelnames)
        for labels, count in self._counts.items():
            family.add_metric(labels, count)
        return [family]


class Sums(Family):
    """Summaries without quantiles: how often, and how much together. Labels are bounded, as of `Counts`."""

    def __init__(self, name: str, about: str, labels: Labels, registry: CollectorRegistry, *, bounded: int = 0) -> None:
        self._sums: dict[Labels, list[float]] = {}
        self._bounded = _Bounded(bounded)
        super().__init__(name, about, labels, registry)

    def observe(self, value: float, *labels: str) -> None:
        series = self._sums.get(labels)
        if series is None:
            series = self._sums.setdefault(self._bounded.known(labels), [0.0, 0.0])
        series[0] += 1
        series[1] += value

    def collect(self) -> Iterable[core.Metric]:
        family = core.SummaryMetricFamily(self._name, self._about, labels=self._labelnames)
        for labels, (count, total) in self._sums.items():
            family.add_metric(labels, count_value=int(count), sum_value=total)
        return [family]


class Totals(Family):
    """Counters that are kept elsewhere: all of them are put at once, and what is not named has no series."""

    def __init__(self, name: str, about: str, labels: Labels, registry: CollectorRegistry) -> None:
        self._values: dict[Labels, float] = {}
        super().__init__(name, about, labels, registry)

    def put(self, values: Mapping[_Labels, float]) -> None:
        self._values = {}
        self._values.update(values.items())

    def collect(self) -> Iterable[core.Metric]:
        family = core.CounterMetricFamily(self._name, self._about, labels=self._labelnames)
        for labels, value in self._values.items():
            family.add_metric(labels, value)
        return [family]


class Readings(Family):
    """Gauges of whatever there is at the moment: all of them are put at once, and what is not named has no series."""

    def __init__(self, name: str, about: str, labels: Labels, registry: CollectorRegistry) -> None:
        self._values: dict[Labels, float] = {}
        super().__init__(name, about, labels, registry)

    def put(self, values: Mapping[_Labels, float]) -> None:
        self._values = {}
        self._values.update(values.items())

    def put_one(self, value: float | None) -> None:
        """For one without labels; None: there is nothing to say."""
        self._values = {} if value is None else {(): value}

    def collect(self) -> Iterable[core.Metric]:
        family = core.GaugeMetricFamily(self._name, self._about, labels=self._labelnames)
        for labels, value in self._values.items():
            family.add_metric(labels, value)
        return [family]


class _Bounded:
    """Lets the first names through, and calls all that come later by one."""

    def __init__(self, labels: int) -> None:
        self._labels = labels
        self._names: dict[Labels, None] = {}

    def known(self, labels: Labels) -> Labels:
        named = labels[: self._labels]
        if named in self._names or not named:
            return labels
        if len(self._names) < SERIES_MAX:
            self._names[named] = None
            return labels
        return (OTHER,) * len(named) + labels[self._labels :]


def largest(values: Mapping[_Labels, float], join: Callable[[float, float], float]) -> dict[Labels, float]:
    """The largest readings by their labels; the others are joined under `OTHER`."""
    found: dict[Labels, float] = {}
    if len(values) <= SERIES_MAX:
        found.update(values.items())
        return found
    ranked = sorted(values.items(), key=lambda item: (-item[1], item[0]))
    found.update(ranked[:SERIES_MAX])
    for labels, value in ranked[SERIES_MAX:]:
        other = (OTHER,) * len(labels)
        found[other] = join(found.get(other, 0.0), value)
    return found
