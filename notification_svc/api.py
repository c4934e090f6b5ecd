"""Mails that come back later, as the mail provider's webhook says it, or whoever reads the sender's mailbox.

The Message-ID says which mail it was, and the status (RFC 3463) why: nothing else is taken, for the rest of a
bounce is personal. Any bounce may be reported, of whatever mail, and more than once: what is not about a mail
from here, or is not final, is left.
"""

from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, StringConstraints

from events.http.application import Running
from events.http.authentication import CLIENT
from events.http.limits import StrictRoute
from events.http.problems import FORGOTTEN, Problem
from notification_svc.decide import Bounced, Notice
from notification_svc.mail import sent_as

router = APIRouter(prefix="/bounces", tags=["bounces"], route_class=StrictRoute)

RETRY_AFTER_SECONDS = 5
UNKNOWN = {"description": "No mail about such an order was sent from here"}
NOT_YET = {"description": "It is not known yet that this mail was sent: report it again"}


class Bounce(BaseModel):
    """One mail that could not be delivered."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "message_id": "<send_email.8f14e45f-ceea-467f-a0e6-8bd2e2d9e3b4@shop.example>",
                "status": "5.1.1",
            }
        },
    )

    message_id: Annotated[str, StringConstraints(min_length=1, max_length=300)]
    status: Annotated[str, StringConstraints(pattern=r"^[245]\.[0-9]{1,3}\.[0-9]{1,3}$")]


@router.post(
    "",
    status_code=204,
    dependencies=[CLIENT],
    responses={404: UNKNOWN, 410: FORGOTTEN, 503: NOT_YET},
)
async def bounced(bounce: Bounce, runtime: Running) -> Response:
    """Take it that a mail came back."""
    mail = sent_as(bounce.message_id)
    if mail is None or not bounce.status.startswith("5"):
        return Response(status_code=204)
    order_id, number = mail
    asked = Bounced(order_id=order_id, round=number, reason=bounce.status)
    notice: Notice | None = await runtime.ask(asked)
    if notice is None:
        raise Problem(404, f"no mail about order {order_id} was sent from here")
    if notice.email == "sending" and notice.email_round == number:
        headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
        raise Problem(503, "this mail is still being sent: report it again", headers=headers)
    return Response(status_code=204)
