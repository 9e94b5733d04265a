"""What Prometheus may know: counts and times, by persona; never a text."""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from daemon.serve.roster import Roster

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self, roster: Roster) -> None:
        self.registry = here = CollectorRegistry()
        of = ["persona"]
        self.requests = Counter("persona_requests", "Requests, by how they ended.", [*of, "outcome"], registry=here)
        self.tokens = Counter("persona_tokens", "Tokens, of prompts and answers.", [*of, "kind"], registry=here)
        self.seconds = Histogram(
            "persona_request_seconds", "Seconds to a complete answer.", of, buckets=_SECONDS, registry=here
        )
        self.first = Histogram(
            "persona_first_text_seconds", "Seconds to its first text.", of, buckets=_SECONDS, registry=here
        )
        self.registry.register(_Now(roster))


class _Now(Collector):
    """What is read off the roster at the moment of asking."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster

    def collect(self) -> Iterable[Metric]:
        """Requests under way and revisions per persona, layers per base model."""
        in_flight = GaugeMetricFamily("persona_in_flight", "Requests being answered.", labels=["persona", "layer"])
        revision = GaugeMetricFamily("persona_revision", "The genome revision served now.", labels=["persona"])
        for report in self._roster.reports():
            revision.add_metric([report.persona], report.revision)
            for label, count in report.in_flight.items():
                in_flight.add_metric([report.persona, label], count)
        yield in_flight
        yield revision
        yield from self._layers()

    def _layers(self) -> Iterator[Metric]:
        size = GaugeMetricFamily("persona_layer_bytes", "Memory that layers take.", labels=["base_model"])
        loads = CounterMetricFamily("persona_layer_loads", "Layers loaded.", labels=["base_model"])
        evictions = CounterMetricFamily("persona_layer_evictions", "Layers evicted.", labels=["base_model"])
        for base_model, engine in self._roster.engines.loaded().items():
            size.add_metric([base_model], engine.shelf.size)
            loads.add_metric([base_model], engine.shelf.loads)
            evictions.add_metric([base_model], engine.shelf.evictions)
        yield from (size, loads, evictions)
