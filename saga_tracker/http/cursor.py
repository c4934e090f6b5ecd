"""Where a page ended, as text that the next request gives back."""

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import Query

from events.http.problems import Problem

MAX_CURSOR_CHARACTERS = 200

Cursor = Annotated[
    str | None, Query(max_length=MAX_CURSOR_CHARACTERS, description="`next_cursor` of a page.")
]


def cursor_after(at: datetime, row_id: UUID) -> str:
    """The cursor of a page whose last row is this one."""
    return urlsafe_b64encode(f"{at.isoformat()} {row_id}".encode()).decode()


def place_in(cursor: str) -> tuple[datetime, UUID]:
    """Where the page before ended. Raises Problem for what no page has given."""
    try:
        at, row_id = urlsafe_b64decode(cursor).decode().split(" ")
        place = datetime.fromisoformat(at), UUID(row_id)
        if place[0].tzinfo is None:
            raise ValueError("an instant needs an offset")
    except (ValueError, binascii.Error):
        raise Problem(422, "the cursor is not one that this endpoint has given") from None
    return place
