"""Who is down is not late: since when each service has been down, and how far each has come. Pure.

While a service is down its time stands still, up to its patience from when it went down; once it is back,
each of its steps has its full time again. One that is up, and has not answered anybody who came later, is
still busy with those before: then an order's time begins when it is passed over. There is one clock.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

ALWAYS = datetime.min.replace(tzinfo=UTC)
# Of each step: enough for longer than any patience, and if not, an order is only passed over later.
MAX_MARKS = 2_000


@dataclass(frozen=True, slots=True)
class Time:
    """From when a service's time for one order counts: to be sent the fact again, and to be given up on."""

    redrive_from: datetime
    give_up_from: datetime


@dataclass(frozen=True, slots=True)
class Outage:
    """Since when a service has been down, and when that was seen last. `patience` ends at `until`.

    `deaf`: it would not receive a redrive either, unlike one that only does not answer. `up_since`: when it
    looked well for the first time after that; it is over once the service has really worked. `silent_since`:
    an answer after that shows it, however late it is read.
    """

    since: datetime
    until: datetime
    why: str
    deaf: bool
    seen_at: datetime
    silent_since: datetime
    up_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Waiter:
    """An order that has waited since then for a step that may take so many seconds."""

    order_id: UUID
    since: datetime
    seconds: float


@dataclass(frozen=True, slots=True)
class Lock:
    """Since when orders of a service wait for a lock, when that was seen last, and whose it is, if it is."""

    since: datetime
    seen_at: datetime
    session: str | None


@dataclass(slots=True)
class _Progress:
    """How far a service has come with a step: who began to wait last of those whom it answered, and when."""

    began: list[datetime] = field(default_factory=list)
    answered: list[datetime] = field(default_factory=list)

    def note(self, began_at: datetime, answered_at: datetime) -> None:
        if not self.began or began_at > self.began[-1]:
            self.began.append(began_at)
            self.answered.append(answered_at)
        if len(self.began) > 2 * MAX_MARKS:
            del self.began[:MAX_MARKS], self.answered[:MAX_MARKS]

    def passed_over_at(self, since: datetime) -> datetime | None:
        """When somebody was answered who began to wait after that."""
        place = bisect_right(self.began, since)
        return self.answered[place] if place < len(self.began) else None


class Availability:
    """What is known of all services. With a patience of 0 it makes no difference that one is down."""

    def __init__(
        self, patience_seconds: Mapping[str, float], *, settled_seconds: float, unready_seconds: float
    ) -> None:
        """A service is back when it answers somebody, or has looked well for `settled_seconds`.

        One that falls down again within that time has never been back. That it says itself that it is not
        ready counts after `unready_seconds` in which it answered nobody.
        """
        self._patience = {name: timedelta(seconds=seconds) for name, seconds in patience_seconds.items()}
        self._settled = timedelta(seconds=settled_seconds)
        self._unready = timedelta(seconds=unready_seconds)
        self._outages: dict[str, Outage] = {}
        self._ended: dict[str, tuple[Outage, datetime]] = {}
        self._anew_at = ALWAYS
        self._progress: dict[str, dict[str, _Progress]] = {}
        self._answered_at: dict[str, datetime] = {}
        self._unready_since: dict[str, datetime] = {}
        self._locks: dict[str, Lock] = {}
        self._queued_since: dict[str, datetime] = {}
        # Of each service and step, one that waits and was not passed over when that was noted.
        self._first: dict[tuple[str, str], _Waiter] = {}
        self._received_at = ALWAYS

    def outage_of(self, service: str) -> Outage | None:
        """The outage that lasts."""
        return self._outages.get(service)

    def lock_of(self, service: str) -> Lock | None:
        """The lock that orders of it wait for now."""
        lock = self._locks.get(service)
        return lock if lock is not None and lock.session is not None else None

    def looked(self, service: str, at: datetime, consumers: int | None, unready: str | None) -> None:
        """How many consume its queue, and why it is not ready; None where that is unknown, or it is."""
        if unready is None:
            self._unready_since.pop(service, None)
        failing = self._unready_since.setdefault(service, at) if unready is not None else at
        if self._answered_at.get(service, ALWAYS) > failing:
            self._unready_since[service] = failing = at
        if consumers == 0:
            self._found_down(service, at, at, "nobody consumes its queue", deaf=True)
        elif at - failing >= self._unready:
            self._found_down(service, failing, at, f"it is not ready: {unready}", deaf=True)
        else:
            self._found_up(service, at)

    def queued_since(self, service: str) -> datetime | None:
        """Since when its queue has not been seen empty: nothing in it waits for much longer than that."""
        return self._queued_since.get(service)

    def saw_queue(self, service: str, at: datetime, messages: int) -> None:
        """How many messages wait in its queue."""
        if messages:
            self._queued_since.setdefault(service, at)
        else:
            self._queued_since.pop(service, None)

    def saw_lock(self, service: str, at: datetime, session: str | None) -> None:
        """Some of its orders wait for a lock that this session holds, and the others pass; None if no lock.

        Nobody knows which, so the time of all begins anew whenever that is seen, up to its patience.
        """
        before = self._locks.get(service)
        if session is not None:
            lasts = before is not None and at - before.seen_at < self._settled
            self._locks[service] = Lock(before.since if before and lasts else at, at, session)
        elif before is not None:
            self._locks[service] = replace(before, session=None)

    def waits(self, order_id: UUID, waits: Mapping[tuple[str, str], tuple[datetime, float]]) -> None:
        """For which steps of which services an order waits, since when, and how long each may take.

        Of those that wait for a step one is enough to `look` who answers nobody, before anybody is late.
        """
        for key in [key for key, first in self._first.items() if first.order_id == order_id]:
            if key not in waits:
                del self._first[key]
        for key, (since, seconds) in waits.items():
            self._first.setdefault(key, _Waiter(order_id, since, seconds))
            self._received_at = max(self._received_at, since)

    def look(self) -> None:
        """See who answers nobody, as of what was received last: who is read late has not answered late."""
        for (service, step), first in self._first.items():
            self.waited(service, step, first.since, first.seconds, self._received_at)

    def waited(self, service: str, step: str, since: datetime, seconds: float, at: datetime) -> None:
        """Somebody has waited for it since then, for a step that may take so many seconds.

        If it has answered nobody for a third of that, it is down: so early, for whoever waited before has
        less time left. Who was passed over says nothing of that: it may have nobody else to answer.
        """
        outage = self._outages.get(service)
        if outage is not None and outage.up_since is None:
            return
        if self._passed_over_at(service, step, since) is not None:
            return
        up_since = outage.up_since if outage is not None and outage.deaf else None
        silent_since = max(
            since, self._answered_at.get(service, ALWAYS), self._back_at(service), up_since or ALWAYS
        )
        if at - silent_since >= timedelta(seconds=seconds) / 3:
            self._found_down(service, silent_since, at, "it answers nobody", deaf=False)

    def answered(self, service: str, step: str, began_at: datetime, at: datetime) -> None:
        """It has answered one who had waited since `began_at` for this step."""
        self._received_at = max(self._received_at, at)
        self._answered_at[service] = max(at, self._answered_at.get(service, ALWAYS))
        first = self._first.get((service, step))
        if first is not None and began_at >= first.since:
            del self._first[service, step]
        outage = self._outages.get(service)
        if outage is not None and outage.up_since is not None and at > outage.silent_since:
            self._end(service, at)
        if service not in self._outages:
            self._progress.setdefault(service, {}).setdefault(step, _Progress()).note(began_at, at)

    def begin_anew(self, at: datetime) -> None:
        """Nobody could be reached until then: every step of every service has its full time again."""
        self._anew_at = at
        self._progress.clear()

    @property
    def anew_at(self) -> datetime:
        """From when a saga's whole way has its full time, whichever service was down."""
        ends = [outage.until for outage in self._outages.values()]
        ends += map(self._locked_until, self._locks)
        return max(self._anew_at, *ends, *(at for _, at in self._ended.values()), ALWAYS)

    def time_of(self, service: str, step: str, since: datetime, seconds: float) -> Time:
        """The time of one who has waited since then for a step that may take so many seconds."""
        patience = self._patience.get(service, timedelta(0))
        begins = max(since, self._back_at(service), self._locked_until(service))
        # Of one order it stands still for so long, and no longer, whatever its service goes through.
        begins = max(min(begins, since + patience), self._anew_at)
        outage = self._outages.get(service)
        if outage is not None:
            until = max(begins, outage.until)
            return Time(until if outage.deaf else begins, until)
        passed_over_at = self._passed_over_at(service, step, since)
        if passed_over_at is not None and passed_over_at <= begins + timedelta(seconds=seconds):
            return Time(begins, begins)
        return Time(begins, min(passed_over_at or begins + patience, begins + patience))

    def _passed_over_at(self, service: str, step: str, since: datetime) -> datetime | None:
        progress = self._progress.get(service, {}).get(step)
        return progress.passed_over_at(since) if progress else None

    def _locked_until(self, service: str) -> datetime:
        lock = self._locks.get(service)
        if lock is None:
            return ALWAYS
        return min(lock.seen_at, lock.since + self._patience.get(service, timedelta(0)))

    def _back_at(self, service: str) -> datetime:
        _, back_at = self._ended.get(service, (None, ALWAYS))
        return max(back_at, self._anew_at)

    def _found_down(self, service: str, since: datetime, at: datetime, why: str, *, deaf: bool) -> None:
        before, back_at = self._ended.get(service, (None, ALWAYS))
        lasting = self._outages.get(service)
        if lasting is None and before is not None and at - back_at < self._settled:
            lasting = before
        first = lasting.since if lasting is not None else since
        patience = self._patience.get(service, timedelta(0))
        silent_since, up_since = (at, None) if deaf else (since, at)
        self._outages[service] = Outage(first, first + patience, why, deaf, at, silent_since, up_since)

    def _found_up(self, service: str, at: datetime) -> None:
        outage = self._outages.get(service)
        if outage is None:
            return
        if outage.up_since is None:
            outage = self._outages[service] = replace(outage, up_since=at)
        if at - outage.seen_at >= self._settled:
            self._end(service, at)

    def _end(self, service: str, at: datetime) -> None:
        self._ended[service] = self._outages.pop(service), at
        self._progress.pop(service, None)
