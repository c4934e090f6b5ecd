"""What a process answers on `/metrics`, as tests read it."""

from collections.abc import Iterator
from typing import Any

from prometheus_client.parser import text_string_to_metric_families


class Numbers:
    """One answer of `/metrics`."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    def __getitem__(self, name: str) -> float:
        return self.of(name)

    def of(self, name: str, **labels: str) -> float:
        """The sum of the series of this name that have these labels; 0 when there is none."""
        return sum(
            sample.value
            for sample in self._samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def series(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Every series of this system, histograms once for each set of labels."""
        for sample in self._samples:
            if sample.name.startswith("murmuration_") and "le" not in sample.labels:
                yield sample.name, sample.labels

    def has(self, name: str) -> bool:
        """Whether there is any series of this name."""
        return any(sample.name == name for sample in self._samples)


class Since:
    """How much counters have grown between two answers: other tests of this process count in them, too."""

    def __init__(self, before: Numbers, now: Numbers) -> None:
        self._before = before
        self._now = now

    def of(self, name: str, **labels: Any) -> float:
        """The growth of the sum of these series."""
        return self._now.of(name, **labels) - self._before.of(name, **labels)
