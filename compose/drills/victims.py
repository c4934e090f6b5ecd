"""Which services a fault befalls, one after the other: one that the seed draws, and then some always."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from random import Random

from compose.system import SERVICE_NAMES


@dataclass(frozen=True, slots=True)
class Victims:
    """`always` says of each for how many seconds, of the drawn one `drawn_seconds` does; 0: none is drawn."""

    always: Mapping[str, float] = field(default_factory=dict)
    drawn_seconds: float = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """Everybody whom it may befall."""
        return SERVICE_NAMES if self.drawn_seconds else tuple(self.always)

    @property
    def longest_seconds(self) -> float:
        """How long it lasts for whom it lasts longest."""
        return max(self.drawn_seconds, *self.always.values())

    def in_turn(self, random: Random) -> Iterator[tuple[str, float]]:
        """Who, and for how long."""
        if self.drawn_seconds:
            others = [name for name in SERVICE_NAMES if name not in self.always]
            yield random.choice(others), self.drawn_seconds
        yield from self.always.items()
