"""Quartiles, and ratios within a round."""

from __future__ import annotations

import math

import pytest

from loadtests.bench.summary import add_latency, per_round, summarise
from loadtests.bench.window import Round, Window


def window(cpu_us: float, p50: float = 1.0, p99: float = 2.0) -> Window:
    return Window(1000, cpu_us, 20_000.0, p50, p99)


def test_the_ratio_is_taken_within_each_round_so_that_a_drifting_machine_cancels_out() -> None:
    drift = (1.0, 3.0, 1.5, 2.0)
    rounds: list[Round] = [{"nginx": window(20 * d), "other": window(30 * d)} for d in drift]
    figures = summarise(rounds, "nginx")["other"]
    assert (figures["ratio_min"], figures["ratio_median"], figures["ratio_max"]) == (1.5, 1.5, 1.5)
    assert (figures["cpu_us_min"], figures["cpu_us_quartile"], figures["cpu_us_median"]) == (30, 45, 52.5)


def test_a_single_contestant_has_costs_and_no_ratio() -> None:
    figures = summarise([{"other": window(30.0)}], "nginx")["other"]
    assert figures["cpu_us_median"] == 30.0
    assert "ratio_median" not in figures


def test_a_window_without_requests_spoils_neither_costs_nor_ratios() -> None:
    rounds: list[Round] = [
        {"nginx": window(20.0), "other": window(math.nan)},
        {"nginx": window(20.0), "other": window(40.0)},
    ]
    figures = summarise(rounds, "nginx")["other"]
    assert (figures["cpu_us_median"], figures["ratio_median"]) == (40.0, 2.0)
    assert per_round(rounds, "other", "nginx", lambda one: one.cpu_us) == [2.0]


def test_no_rounds_give_no_figures() -> None:
    assert summarise([], "nginx") == {}


def test_latency_is_what_is_added_to_the_load_without_a_gateway() -> None:
    rounds: list[Round] = [
        {
            "direct": window(math.nan, 0.05, 0.1),
            "nginx": window(30.0, 0.15, 0.3),
            "other": window(40.0, 0.2, 0.6),
        }
    ]
    summary = summarise(rounds, "nginx")
    add_latency(summary, rounds, "direct", "nginx")
    assert summary["other"]["added_p50_ms"] == pytest.approx(0.15)
    assert summary["other"]["added_p99_ms"] == pytest.approx(0.5)
    assert (summary["other"]["added_p50_ratio"], summary["other"]["added_p99_ratio"]) == (1.5, 2.5)
    assert "added_p50_ms" not in summary["direct"]
    assert "cpu_us_median" not in summary["direct"]
