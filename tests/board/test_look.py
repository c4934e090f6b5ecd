"""Every page in a real browser: no error, nothing refused by its own policy, nothing that hinders anybody."""

import os
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Page

from tests.board.stage import Stage, looking
from tests.runtime.eventually import eventually

AXE = Path(__file__).parent / "axe" / "axe.min.js"
# Where CI finds a picture of every page.
SCREENSHOTS = os.environ.get("SCREENSHOTS")
# By a name of each page, its address; {...} is an order of the stage.
PAGES = {
    "home": "/",
    "sagas": "/ui/sagas",
    "saga-pending": "/ui/sagas/{pending}",
    "saga-held": "/ui/sagas/{held}",
    "saga-manual": "/ui/sagas/{manual}",
    "saga-completed": "/ui/sagas/{completed}",
    "dead-letters": "/ui/dead-letters",
    "manual": "/ui/manual",
    "reconciliation": "/ui/reconciliation",
    "audit": "/ui/audit",
    "services": "/ui/services",
    "fact-type": "/ui/facts/payment.captured.v1",
}
# The documents show these, not all of them down to their end: `make pictures` takes them anew.
PICTURES = os.environ.get("PICTURES")
# Each with its height, and what is to be seen on it.
PICTURED = {
    "home": ("board-home.png", 780, "provider did not answer in time"),
    "manual": ("board-manual.png", 400, "undo refused, refund_refused, says provider"),
    "saga-pending": ("saga-page.png", 1_000, "What to do"),
}
PICTURE_WIDTH, MAX_PICTURE_BYTES = 1_100, 150_000
DOCS = Path(__file__).parents[2] / "docs"


async def show(page: Page, stage: Stage, name: str) -> None:
    """Go to a page."""
    await page.goto(PAGES[name].format(**stage.orders))


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_a_page_has_no_errors_and_hinders_nobody(
    browser: Browser, stage: Stage, name: str, *, dark: bool
) -> None:
    async with looking(browser, stage, dark=dark) as (page, _):
        await show(page, stage, name)
        await page.locator("h1").wait_for()
        if SCREENSHOTS:
            file = Path(SCREENSHOTS) / f"{name}-{'dark' if dark else 'light'}.png"
            await page.screenshot(path=file, full_page=True)
        # By the browser's own tools, which the page's policy does not bind.
        await page.evaluate(f"() => {{ {AXE.read_text()} }}")
        found = await page.evaluate("async () => (await axe.run()).violations")
        problems = [(each["id"], [node["html"] for node in each["nodes"]][:3]) for each in found]
        assert problems == []


@pytest.mark.parametrize("name", PICTURED)
async def test_a_page_is_pictured_in_the_documents(
    browser: Browser, stage: Stage, name: str, tmp_path: Path
) -> None:
    file, height, words = PICTURED[name]
    assert (DOCS / file).stat().st_size < MAX_PICTURE_BYTES
    async with looking(browser, stage) as (page, _):

        async def tells() -> bool:
            await show(page, stage, name)
            return words in await page.locator("main").inner_text()

        await eventually(tells, why=words)
        taken = (Path(PICTURES) if PICTURES else tmp_path) / file
        await page.set_viewport_size({"width": PICTURE_WIDTH, "height": height})
        await page.screenshot(path=taken)
        assert taken.stat().st_size < MAX_PICTURE_BYTES


@pytest.mark.parametrize("name", PAGES)
async def test_a_page_fits_a_phone(browser: Browser, stage: Stage, name: str) -> None:
    async with looking(browser, stage, phone=True) as (page, _):
        await show(page, stage, name)
        widths = await page.evaluate("() => [document.documentElement.scrollWidth, window.innerWidth]")
        assert widths[0] <= widths[1]


@pytest.mark.parametrize("name", PAGES)
async def test_a_page_can_be_read_without_scripts(browser: Browser, stage: Stage, name: str) -> None:
    async with looking(browser, stage, scripts=False) as (page, _):
        await show(page, stage, name)
        assert await page.locator("main h1").count() == 1


async def test_the_board_is_where_one_types_it(browser: Browser, stage: Stage) -> None:
    async with looking(browser, stage) as (page, _):
        await page.goto("/ui")
        assert urlsplit(page.url).path == "/"


async def test_an_error_is_a_page(browser: Browser, stage: Stage) -> None:
    async with looking(browser, stage) as (page, looked):
        looked.expected = (404, 422)
        await page.goto("/ui/nowhere")
        assert "Not Found" in await page.locator("h1").inner_text()
        await page.goto("/ui/sagas/seven")
        assert "not valid" in await page.locator("main").inner_text()
        await page.goto("/ui/sagas/00000000-0000-4000-8000-000000000000")
        assert "no fact of order" in await page.locator("main").inner_text()
