# Copyright: (c) 2026, claude_code.nix_sandbox contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Figures for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Blueprint, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .manager import Manager, current
from .watch import Seen

blueprint = Blueprint("metrics", __name__)
_MAX_AGE = 5.0  # seconds
_TOKENS = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_PREFIX = "claude_sandbox"


@blueprint.get("/metrics")
def metrics() -> Response:
    """All figures, as Prometheus reads them."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(current()))
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


class _Figures(Collector):
    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def collect(self) -> Iterator[Metric]:
        """The figures of the host, then of the sandboxes."""
        for name, value in self._manager.system.now().items():
            yield GaugeMetricFamily(f"{_PREFIX}_host_{name}", "Of the host.", value=value)
        yield from _of(self._manager.watch.all(_MAX_AGE))


def _of(seen: list[Seen]) -> Iterator[Metric]:
    info = GaugeMetricFamily(f"{_PREFIX}_info", "1 for each sandbox.", labels=["name", "backend", "status"])
    doing = GaugeMetricFamily(f"{_PREFIX}_activity", "1 for what the agent says it does.", labels=["name", "activity"])
    cpu = GaugeMetricFamily(f"{_PREFIX}_cpu_percent", "Of one processor, since the look before.", labels=["name"])
    memory = GaugeMetricFamily(f"{_PREFIX}_memory_bytes", "Resident; an upper bound.", labels=["name"])
    tokens = CounterMetricFamily(f"{_PREFIX}_tokens", "At least so many tokens.", labels=["name", "model", "kind"])
    messages = CounterMetricFamily(f"{_PREFIX}_messages", "At least so many messages.", labels=["name"])
    for each in seen:
        name = str(each.view["name"])
        info.add_metric([name, str(each.view.get("backend", "")), str(each.view["status"])], 1)
        if each.activity:
            doing.add_metric([name, each.activity], 1)
        if each.process:
            cpu.add_metric([name], each.process.cpu_percent)
            memory.add_metric([name], each.process.memory_bytes)
        if each.usage:
            messages.add_metric([name], each.usage["messages"])
            for model, counts in each.usage["by_model"].items():
                for kind in _TOKENS:
                    tokens.add_metric([name, model, kind], counts[kind])
    yield from (info, doing, cpu, memory, tokens, messages)
