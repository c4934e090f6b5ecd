"""What the running tracker finds when it compares its view with the services and the provider's ledger."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from rich.console import Console
from rich.markup import escape

from compose.local.errors import RigError
from compose.whereabouts import Whereabouts

TRACKER = "tracker"
ANSWER_SECONDS = 60
POLL_SECONDS = 0.5
EXAMPLES = 3
SENTENCE = "Each service and the provider's ledger say of an order what the tracker's view says of it."


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
            await asyncio.sleep(POLL_SECONDS)
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
