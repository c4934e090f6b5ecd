"""`make check`: the invariants against the running system, fair to orders that are still on their way.

And what the tracker itself finds when it asks everybody.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import aiohttp
from rich.console import Console
from rich.markup import escape

from compose.local.commands import RigError
from compose.rig import Rig, Whereabouts
from compose.snapshot import Activity, Reader, sources_of
from saga_tracker.consistency.rules import INVARIANTS, Violation, violations
from saga_tracker.consistency.snapshot import NOT_THERE, Books, Snapshot, books_by_order

PATIENCE_SECONDS = 10.0
POLL_SECONDS = 0.25
# How long an order must not have moved, in a system that does not come to rest, to be judged as if it had.
STANDSTILL_SECONDS = 3.0
EXAMPLES = 3
TRACKER = "tracker"
ANSWER_SECONDS = 60
ASK_AGAIN_SECONDS = 0.5
SENTENCE = "Each service and the provider's ledger say of an order what the tracker's view says of it."


@dataclass(frozen=True, slots=True)
class Findings:
    """What was read, and what is wrong with it. Of orders still `moving` only what always holds was asked."""

    snapshot: Snapshot
    violations: tuple[Violation, ...]
    moving: frozenset[UUID] = frozenset()


async def wait_until_quiet(reader: Reader, timeout_seconds: float) -> bool:
    """Wait until no outbox, table of calls or queue holds anything, and nothing was published for a moment.

    Answers whether that came about in time.
    """
    deadline = time.monotonic() + timeout_seconds
    before: Activity | None = None
    while True:
        now = await reader.activity()
        if now.quiet and now == before:
            return True
        if time.monotonic() > deadline:
            return False
        before = now
        await asyncio.sleep(POLL_SECONDS)


async def examine(reader: Reader, patience_seconds: float = PATIENCE_SECONDS) -> Findings:
    """Read all books and judge them.

    What looks wrong of an order may only not have arrived yet: it counts once the system is quiet and it
    is still so after `patience_seconds`. In a system that is never quiet, orders that move are left out.
    """
    deadline = time.monotonic() + patience_seconds
    while True:
        before = await reader.activity()
        snapshot = await reader.snapshot()
        after = await reader.activity()
        found = violations(snapshot)
        quiet = after.quiet and after == before
        certain = any(violation.invariant.always for violation in found)
        if quiet and (not found or certain or time.monotonic() > deadline):
            return Findings(snapshot, tuple(found))
        if time.monotonic() > deadline:
            return await _examine_moving(reader, before, snapshot)
        await asyncio.sleep(POLL_SECONDS)
        await wait_until_quiet(reader, deadline - time.monotonic())


async def _examine_moving(reader: Reader, before: Activity, first: Snapshot) -> Findings:
    """Tell orders that stand still from those that move, by reading everything twice."""
    await asyncio.sleep(STANDSTILL_SECONDS)
    second = await reader.snapshot()
    after = await reader.activity()
    earlier, books = books_by_order(first), books_by_order(second)
    moving = {order_id for order_id, book in books.items() if earlier.get(order_id) != book}
    moving |= before.moving | after.moving
    if before.queued or after.queued:
        moving |= {order_id for order_id, book in books.items() if _may_wait_in_a_queue(book)}
    return Findings(second, tuple(violations(second, moving)), frozenset(moving))


def _may_wait_in_a_queue(book: Books) -> bool:
    """Whether something of this order may still wait for a service to receive it."""
    ended = book.verdict in ("COMPLETED", "CANCELLED", "NEEDS_MANUAL", "AWAITING_APPROVAL")
    notified = book.notice.status not in (NOT_THERE, "sending")
    unsold = book.verdict == "COMPLETED" and book.reservation.status == "reserved"
    return not ended or not notified or unsold


def check(rig: Rig, console: Console, patience_seconds: float = PATIENCE_SECONDS) -> bool:
    """Judge the running system and print it; answers whether all is well.

    Raises RigError when the system is not running, or a part of it cannot be read.
    """
    demand_running(rig)

    async def look() -> tuple[Findings, Agreement]:
        async with Reader(sources_of(rig.addresses)) as reader:
            findings = await examine(reader, patience_seconds)
        return findings, await ask_tracker(rig.addresses, patience_seconds)

    findings, agreement = asyncio.run(look())
    print_findings(findings, console)
    print_agreement(agreement, console)
    return not findings.violations and not agreement.listed


def demand_running(rig: Rig) -> None:
    """Raises RigError when there is nothing to check, or only a part of it."""
    running = rig.status()
    if not any(component.pid for component in running):
        raise RigError("nothing is running: make up starts it")
    missing = [component.name for component in running if component.pid is None]
    if missing:
        raise RigError(f"only a part of the system is running: {', '.join(missing)} is not (make status)")


def print_findings(findings: Findings, console: Console) -> None:
    """One line an invariant; below a broken one, the first few orders of which it does not hold."""
    books = findings.snapshot
    movements = sum(map(len, (books.ledger or {}).values()))
    console.print(
        f"[bold]invariants[/] over {len(books.states['order'])} orders, {movements} movements of money "
        f"and {len(books.carrier)} shipments",
        soft_wrap=True,
    )
    for rule in INVARIANTS:
        broken = [violation for violation in findings.violations if violation.invariant is rule]
        mark = "[red]FAIL[/]" if broken else "[green]ok  [/]"
        count = f" [red]{_violations(len(broken))}[/]" if broken else ""
        console.print(f"  {mark} {escape(rule.sentence)}{count}", soft_wrap=True)
        _print_examples(broken, console)
    if findings.moving:
        console.print(
            f"{len(findings.moving)} orders are on their way: of them, only what always holds was asked",
            soft_wrap=True,
        )


def _print_examples(broken: Sequence[Violation], console: Console) -> None:
    for violation in broken[:EXAMPLES]:
        console.print(f"       {escape(str(violation))}", soft_wrap=True)
    if len(broken) > EXAMPLES:
        console.print(f"       and {len(broken) - EXAMPLES} more")


def _violations(count: int) -> str:
    return f"{count} violation" if count == 1 else f"{count} violations"


@dataclass(frozen=True, slots=True)
class Agreement:
    """The differences the tracker lists, a sentence for each of the first; and what it cannot say yet."""

    listed: int
    examples: Sequence[str]
    reservations: Sequence[str]


async def ask_tracker(where: Whereabouts, patience_seconds: float) -> Agreement:
    """Have the tracker compare now, and again while it is not sure whether something is only on its way.

    Raises RigError when it does not answer, or refuses.
    """
    deadline = time.monotonic() + patience_seconds
    headers = {"Authorization": f"Bearer {where.admin_token}"}
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
        while True:
            found = await _compared(session, where.http(TRACKER))
            postponed = (found["last_round"] or {}).get("postponed")
            if not (found["unsettled"] or postponed) or time.monotonic() > deadline:
                break
            await asyncio.sleep(ASK_AGAIN_SECONDS)
    reservations = [
        f"not compared: {party['party']} ({party['why_not']})"
        for party in found["parties"]
        if party["why_not"]
    ]
    if postponed:
        reservations.append(f"not compared: anything ({postponed})")
    if found["unsettled"]:
        reservations.append(f"{_differences(found['unsettled'])} seen, too short a time ago to count")
    return Agreement(found["listed"], [_sentence(each) for each in found["differences"]], reservations)


def print_agreement(agreement: Agreement, console: Console) -> None:
    """One line, and below it the first few differences."""
    if agreement.listed:
        mark = "[red]FAIL[/]"
    else:
        mark = "[yellow]part[/]" if agreement.reservations else "[green]ok  [/]"
    count = f" [red]{_differences(agreement.listed)}[/]" if agreement.listed else ""
    console.print(f"  {mark} {escape(SENTENCE)}{count}", soft_wrap=True)
    for example in agreement.examples:
        console.print(f"       {escape(example)}", soft_wrap=True)
    if agreement.listed > len(agreement.examples):
        console.print(f"       and {agreement.listed - len(agreement.examples)} more")
    for reservation in agreement.reservations:
        console.print(f"       {escape(reservation)}", soft_wrap=True)


async def _compared(session: aiohttp.ClientSession, tracker_url: str) -> dict[str, Any]:
    try:
        async with session.post(f"{tracker_url}/reconciliation/run?limit={EXAMPLES}") as response:
            answer: dict[str, Any] = await response.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        raise RigError(f"the tracker does not say what it finds: {error!r}") from error
    if response.status != 200:
        raise RigError(f"the tracker does not say what it finds: {answer.get('detail', answer)}")
    return answer


def _sentence(difference: dict[str, Any]) -> str:
    return (
        f"order {difference['order_id']}: {difference['service']} {difference['about']}: "
        f"{difference['expected']} was expected, {difference['found']} was found"
    )


def _differences(count: int) -> str:
    return f"{count} difference" if count == 1 else f"{count} differences"
