"""The picture of a report: its scales, what is in it, and that it is XML."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from tests.benchmarks.measurement import Measurement
from tests.benchmarks.plot import Scale, decades, series, svg

SVG = "{http://www.w3.org/2000/svg}"


def test_an_axis_is_logarithmic_and_ends_at_powers_of_ten() -> None:
    scale, marks = decades([3, 40])
    assert (scale.low, scale.high) == (1, 100)
    assert marks == pytest.approx([1, 2, 5, 10, 20, 50, 100])
    assert [scale.share(value) for value in (1, 10, 100)] == pytest.approx([0, 0.5, 1])
    assert decades([1, 50_000])[1] == pytest.approx([1, 10, 100, 1_000, 10_000, 100_000])


def test_one_value_has_an_axis_too() -> None:
    scale, marks = decades([10])
    assert (scale.low, scale.high) == (10, 100)
    assert marks == pytest.approx([10, 20, 50, 100])
    assert Scale(16, 16).share(16) == 0.5


def test_points_are_by_row_and_system_in_the_order_of_callers() -> None:
    measurements = [
        Measurement("w3", 128, (5.0,), 10),
        Measurement("w3", 1, (1.0,), 3),
        Measurement("w3", 1, (1.0,), 4, system="other"),
        Measurement("w3", 16, (1.0,), 5, system="other"),
        Measurement("failed", 1, (), math.nan),
        Measurement("failed", 16, (1.0,), math.nan),
    ]
    assert series(measurements, lambda each: each.per_second) == {
        "w3 · orchestrator-cluster": [(1, 3), (128, 10)],
        "w3 · other": [(1, 4), (16, 5)],
    }


def test_rows_with_one_number_of_callers_are_drawn_where_there_are_no_others() -> None:
    measurements = [Measurement("failover", 16, (1.0,), 3), Measurement("w3", 1, (1.0,), 3)]
    assert len(series(measurements, lambda each: each.per_second)) == 2
    more = [*measurements, Measurement("w3", 2, (1.0,), 4), Measurement("failover", 16, (1.0,), 5)]
    assert list(series(more, lambda each: each.per_second)) == ["w3 · orchestrator-cluster"]


def test_the_picture_has_both_charts_with_units_and_a_legend() -> None:
    measurements = [Measurement("w3", callers, (callers / 2,), 100.0) for callers in (1, 16, 128)]
    others = [Measurement("a<b", callers, (2.0,), 7.0, system="other") for callers in (1, 16)]
    root = ElementTree.fromstring(svg([*measurements, *others]))
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert {"completed per second", "median time, ms", "callers at once", "w3 · orchestrator-cluster"} <= set(texts)
    assert texts.count("a<b · other") == 1
    # Five points in each of two charts, two in the legend.
    assert len(list(root.iter(f"{SVG}circle"))) == 12
    assert {"1", "16", "128"} <= set(texts)


def test_a_picture_of_nothing_is_one() -> None:
    assert ElementTree.fromstring(svg([])).tag == f"{SVG}svg"


def test_series_beyond_the_colours_differ_by_their_dashes() -> None:
    measurements = [Measurement(f"row{number}", 1, (1.0,), 1.0) for number in range(20)]
    lines = ElementTree.fromstring(svg(measurements)).iter(f"{SVG}polyline")
    looks = {(line.get("stroke"), line.get("stroke-dasharray")) for line in lines}
    assert len(looks) == 20
