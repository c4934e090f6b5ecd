"""A circuit for each outside party: one that is down is left alone, instead of being asked by every call.

closed     requests go out; after so many failures in a row, for so long, it opens
open       no request goes out, for a while
half open  a few requests go out, to probe: one success closes the circuit, and if all fail it opens again

More than one, because a party that is well again may still refuse, or lose, the very request that probes. And
for so long, because refusals come quickly: after an outage of our own those that were refused before go out
together, and are answered before the first that succeeds.
"""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self

from events.outbound.dispatcher import CallFailed
from events.runtime.settings import ServiceSettings
from events.telemetry import metrics
from events.telemetry.log import log

CircuitState = Literal["closed", "open", "half_open"]


class Circuit:
    """The state machine alone. `clock` counts seconds and never goes back."""

    def __init__(
        self,
        *,
        opens_after: int,
        opens_after_seconds: float,
        open_seconds: float,
        probes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._opens_after = opens_after
        self._opens_after_seconds = opens_after_seconds
        self._probes = probes
        self._probes_left = 0
        self._open_seconds = open_seconds
        self._clock = clock
        self._failures = 0
        self._failing_since = 0.0
        self._probe_at = 0.0
        self._era = 0
        self.state: CircuitState = "closed"

    def admit(self) -> int | None:
        """A permit for one request, to be settled whatever becomes of it; None when none may go out."""
        if self.state == "open" and self._clock() >= self._probe_at:
            self._enter("half_open")
            self._probes_left = self._probes
        if self.state == "half_open" and self._probes_left > 0:
            self._probes_left -= 1
            return self._era
        return self._era if self.state == "closed" else None

    def settle(self, permit: int, *, alive: bool) -> None:
        """Note whether the party gave a sign of life. What was asked in an earlier state says nothing now."""
        if permit != self._era:
            return
        if alive:
            self._failures = 0
            if self.state == "half_open":
                self._enter("closed")
            return
        if self._failures == 0:
            self._failing_since = self._clock()
        self._failures += 1
        if self._is_down():
            self._probe_at = self._clock() + self._open_seconds
            self._enter("open")

    def _is_down(self) -> bool:
        if self.state == "half_open":
            return self._failures >= self._probes
        failing_seconds = self._clock() - self._failing_since
        return self._failures >= self._opens_after and failing_seconds >= self._opens_after_seconds

    def wait_seconds(self) -> float:
        """How long nobody need ask again who was turned away now."""
        if self.state == "half_open":
            # The probes have yet to be answered.
            return self._open_seconds / 2
        return max(self._probe_at - self._clock(), 0.0)

    def withdraw(self, permit: int) -> None:
        """Give a permit back: the request came to nothing that says anything about the party."""
        if permit == self._era and self.state == "half_open":
            self._probes_left += 1

    def _enter(self, state: CircuitState) -> None:
        self.state = state
        self._era += 1
        self._failures = 0


class Request:
    """One request under way: it counts as failed unless the party gave a sign of life.

    A cancelled request counts as failed too: what cancels it is the time that a call may take. One that ends
    with any other error than CallFailed does not count: that is a mistake of ours, not of the party.
    """

    __slots__ = ("_note_error", "_permit", "_settle", "_withdraw", "alive")

    def __init__(
        self,
        permit: int,
        settle: Callable[[int, bool], None],
        withdraw: Callable[[int], None],
        note_error: Callable[[str], None],
    ) -> None:
        self._permit = permit
        self._settle = settle
        self._withdraw = withdraw
        self._note_error = note_error
        self.alive = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, CallFailed):
            self._withdraw(self._permit)
        else:
            if error is not None:
                self._note_error(error.reason if isinstance(error, CallFailed) else "timeout")
            self._settle(self._permit, self.alive)


# By party, as metrics have them: one process speaks to a party of a name in one way.
BREAKERS: dict[str, "CircuitBreaker"] = {}


class CircuitBreaker:
    """Guards one party's requests, and says once when its circuit opens and once when it closes.

    `last_error` is what failed last, for whoever is turned away and wants to know why.
    """

    def __init__(self, party: str, settings: ServiceSettings) -> None:
        self._party = party
        self._open_seconds = settings.circuit_open_seconds
        self._circuit = Circuit(
            opens_after=settings.circuit_opens_after,
            opens_after_seconds=settings.circuit_opens_after_seconds,
            open_seconds=settings.circuit_open_seconds,
            probes=settings.circuit_probes,
        )
        self._opened_at: float | None = None
        self.last_error: str | None = None
        BREAKERS[party] = self
        metrics.circuit_is(party, is_open=False)

    @property
    def state(self) -> CircuitState:
        return self._circuit.state

    def request(self) -> Request:
        """For the `with` around one request. Raises CallFailed when none may go out: nothing was sent."""
        permit = self._circuit.admit()
        if permit is None:
            wait_seconds = self._circuit.wait_seconds()
            raise CallFailed(f"{self._party}_circuit_open", maybe_done=False, wait_seconds=wait_seconds)
        return Request(permit, self._settle, self._circuit.withdraw, self._note_error)

    def _note_error(self, reason: str) -> None:
        self.last_error = reason

    def _settle(self, permit: int, alive: bool) -> None:
        self._circuit.settle(permit, alive=alive)
        self._report()

    def _report(self) -> None:
        if self._circuit.state == "open" and self._opened_at is None:
            self._opened_at = time.monotonic()
            metrics.circuit_is(self._party, is_open=True)
            log.warning("circuit_opened", party=self._party, open_seconds=self._open_seconds)
        elif self._circuit.state == "closed" and self._opened_at is not None:
            seconds = round(time.monotonic() - self._opened_at, 1)
            self._opened_at = None
            metrics.circuit_is(self._party, is_open=False)
            log.info("circuit_closed", party=self._party, after_seconds=seconds)
