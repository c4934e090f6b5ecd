"""What loyalty_svc publishes."""

from typing import Annotated

from pydantic import Field

from events.facts.base import Fact, Token


class PointsGranted(Fact, wire="loyalty.points_granted.v1"):
    """The customer has these points for the order, for good."""

    customer: Token
    points: Annotated[int, Field(ge=0)]
