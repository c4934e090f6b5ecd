"""Replicas of the release before and of this one, side by side on local processes."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from compose.drills.rig import REPLICAS, Release
from compose.local.rig import LocalRig
from compose.release_before import environment_of, unpack


class LocalReleases:
    """Runs two replicas of each process, each of the one release or the other."""

    def __init__(self, rig: LocalRig) -> None:
        self._rig = rig
        self._told: dict[Release, dict[str, str]] = {"this": {}}

    @asynccontextmanager
    async def both(self, names: Sequence[str]) -> AsyncIterator[None]:
        """Inside, two replicas of each run, of the release before; afterwards one, of this release."""
        with tempfile.TemporaryDirectory() as folder:
            files = await asyncio.to_thread(unpack, Path(folder) / "release-before")
            self._told["before"] = environment_of(files)
            try:
                for replica in REPLICAS:
                    await self.replace(names, replica, "before")
                yield
            finally:
                await self.replace(names, REPLICAS[0], "this")
                for name in names:
                    for replica in REPLICAS[1:]:
                        await asyncio.to_thread(self._rig.stop, name, instance=replica)

    async def replace(self, names: Sequence[str], replica: int, release: Release) -> None:
        """Stop one replica of each in an orderly way, and have it be of that release from now on."""
        for name in names:
            await asyncio.to_thread(self._rig.stop, name, instance=replica)
            await asyncio.to_thread(
                self._rig.start,
                name,
                instance=replica,
                extra_environment=self._told[release],
                wait_ready=False,
            )
        await asyncio.gather(
            *(asyncio.to_thread(self._rig.wait_ready, name, instance=replica) for name in names)
        )
