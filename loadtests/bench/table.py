"""A run as text, for people: one block per row, and below what can't be compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from loadtests.bench import peers, rows, targets

FOOTER: Final = (
    "CPU: µs of the whole process tree per completed request, min / lower quartile / median of the rounds.",
    "× NGINX: ratio within a round, median (min–max); (in brackets): it does less work than the others.",
    "Not comparable: what a policy is. NGINX counts nothing per tenant or pool and writes its log in blocks",
    "of 64 KiB; HAProxy has a sliding rate instead of a bucket and writes each log line by itself; breakers",
    "are max_fails, observe, outlier detection, an error ratio. A cache hit is found by the request's bytes",
    "(NGINX), by URL of a GET (HAProxy, Varnish), by the tensors in its body (Headgate). Varnish always",
    "logs, into shared memory. Differences under 15 to 20 % are not resolved on a shared machine.",
    "More: docs/benchmarks.md.",
)


def write(run: Mapping[str, Any]) -> str:
    """Return the table."""
    blocks = [_block(rows.ALL[name], result) for name, result in run["rows"].items()]
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items() if version)
    machine = (
        f"{run['date']}, {run['cores']} cores of {run['cpu']}, Linux {run['kernel']}, Python {run['python']}"
    )
    judged = targets.judge(run["rows"])
    if judged:
        blocks.append("\n".join(["targets", *judged]))
    return "\n\n".join([f"{machine}, commit {run['commit']}\n{versions}", *blocks, "\n".join(FOOTER)])


def _block(row: rows.Row, result: Mapping[str, Any]) -> str:
    head, line = {
        "closed": (_CLOSED, _closed),
        "growth": (_CLOSED.replace("× NGINX ", "× smallest"), _closed),
        "latency": (_LATENCY, _latency),
        "memory": (_MEMORY, _memory),
    }[row.kind]
    lines = [f"{row.title} ({row.name})", head]
    lines += [line(name, figures, name in row.lesser) for name, figures in result["peers"].items()]
    lines += [f"  {name}: does less: {less}" for name, less in row.lesser.items() if name in result["peers"]]
    lines += [f"  {name or 'nothing measured'}: left out: {why}" for name, why in result["skipped"].items()]
    lines += [f"  {note}" for note in result["notes"]]
    return "\n".join(lines)


_CLOSED: Final = (
    "                      CPU µs: min /  quart / median   requests/s    p50 /    p99 ms   × NGINX  (min–max)"
)


def _closed(name: str, figures: Mapping[str, float], lesser: bool) -> str:
    costs = (
        f"{figures['cpu_us_min']:>8} /{figures['cpu_us_quartile']:>7} /{figures['cpu_us_median']:>7}"
        if "cpu_us_min" in figures
        else "-"
    )
    ratio = f"{figures['ratio_median']:.2f}" if "ratio_median" in figures else "-"
    ratio = f"({ratio})" if lesser else ratio
    spread = f"({figures['ratio_min']:.2f}–{figures['ratio_max']:.2f})" if "ratio_median" in figures else ""
    return (
        f"  {title(name):<22}{costs:>30}{figures['rate']:>13,.0f}"
        f"{figures['p50_ms']:>9} /{figures['p99_ms']:>7}{ratio:>13} {spread:>13}"
    )


_LATENCY: Final = "                          p50 ms     p99 ms   added p50 /    p99 ms   × NGINX p50 / p99"


def _latency(name: str, figures: Mapping[str, float], lesser: bool) -> str:
    line = f"  {title(name):<22}{figures['p50_ms']:>8}{figures['p99_ms']:>11}"
    if "added_p50_ms" not in figures:
        return line
    line += f"{figures['added_p50_ms']:>14} /{figures['added_p99_ms']:>7}"
    ratios = [figures.get(name) for name in ("added_p50_ratio", "added_p99_ratio")]
    return line + "{:>16} / {}".format(*("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios))


_MEMORY: Final = "                       MiB at rest   KiB per connection of 2,000    of 10,000"


def _memory(name: str, figures: Mapping[str, float], lesser: bool) -> str:
    return f"  {title(name):<22}{figures['base_mib']:>11}{figures['kib_2000']:>30}{figures['kib_10000']:>13}"


def title(name: str) -> str:
    """Return how a contestant is called."""
    return peers.ALL[name].title if name in peers.ALL else name
