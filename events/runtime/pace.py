"""How long a service's loop rests between two batches, so that more arrive for the next one."""

from math import exp

# How far back the past counts: one pause of a busy service should not make it an idle one.
_MEMORY_SECONDS = 1.0


class Pace:
    """Rests in proportion to the last batch and to the share of the time in which there is work.

    What costs per batch rather than per message is what a busy machine pays for: where there is always work,
    fewer and larger batches let all of it go faster. Where there is none most of the time, nobody waits.
    """

    def __init__(self, share: float, cap_seconds: float) -> None:
        self._share = share
        self._cap_seconds = cap_seconds
        self._busy = 0.0

    def idled(self, seconds: float) -> None:
        """So long there was nothing to do."""
        self._busy *= exp(-seconds / _MEMORY_SECONDS)

    def rest_seconds(self, worked_seconds: float) -> float:
        """How long to rest after work that took so long."""
        self._worked(worked_seconds)
        seconds = min(worked_seconds * self._share * self._busy, self._cap_seconds)
        self._worked(seconds)
        return seconds

    def _worked(self, seconds: float) -> None:
        kept = exp(-seconds / _MEMORY_SECONDS)
        self._busy = self._busy * kept + 1 - kept
