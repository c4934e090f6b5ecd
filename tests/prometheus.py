"""A Prometheus of a test's own, where Debian's package is installed."""

import asyncio
import json
import math
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import ClientSession

from compose.local.ports import free_port
from tests.runtime.eventually import eventually

STOP_SECONDS = 40


class Prometheus:
    """One that runs."""

    def __init__(self, url: str, http: ClientSession) -> None:
        self._url = url
        self._http = http

    async def ready(self) -> bool:
        async with self._http.get(f"{self._url}/-/ready") as answer:
            return answer.status == 200

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression has now. Fails with what is wrong with it."""
        async with self._http.get(f"{self._url}/api/v1/query", params={"query": expression}) as answer:
            found = await answer.json()
        assert found["status"] == "success", f"{expression}: {found}"
        series: list[dict[str, Any]] = found["data"]["result"]
        return series

    async def has_data(self, expression: str) -> bool:
        """Whether any series of it has a number."""
        return any(math.isfinite(float(one["value"][1])) for one in await self.query(expression))


@asynccontextmanager
async def running_prometheus(folder: Path, jobs: Mapping[str, str], rules: Path) -> AsyncIterator[Prometheus]:
    """One that asks these jobs, by name and address, every second. `folder` is its own."""
    port = free_port()
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [address]}]} for job, address in jobs.items()
        ],
    }
    (folder / "prometheus.yaml").write_text(json.dumps(config))
    arguments = [
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            "prometheus", *arguments, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        async with ClientSession() as http:
            prometheus = Prometheus(f"http://127.0.0.1:{port}", http)
            await eventually(prometheus.ready, why="Prometheus gets ready")
            yield prometheus
    finally:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
