"""Prometheus exposition of the metrics of all server processes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

_PROCESS = "process"


class Merged:
    """Collector for `generate_latest`."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        """All metrics."""
        return self._metrics


def merged(texts: Mapping[int, str]) -> bytes:
    """Merge expositions by process number, which becomes the label ``process`` of each series."""
    found: dict[str, Metric] = {}
    for member, text in sorted(texts.items()):
        for family in text_string_to_metric_families(text):
            whole = found.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                whole.samples.append(sample._replace(labels={**sample.labels, _PROCESS: str(member)}))
    return generate_latest(Merged(found.values()))
