"""What is kept for how many days; 0 is for ever. Pure.

| kind         | what goes                            | days since    | stays, however old               |
|--------------|--------------------------------------|---------------|----------------------------------|
| sagas        | a saga, its facts and ledger entries | its end       | unended; open letter, difference |
| states       | what the services keep of an order   | its end       | what a service is not done with  |
| dead_letters | one replayed, discarded, resolved    | that was done | open                             |
| unreadable   | that a message told of no saga       | it was read   |                                  |
| audit        | who did what                         | they did it   | of a saga that has not ended     |
| tombstones   | that an order was forgotten          | it was        | its services know it still       |
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["sagas", "states", "dead_letters", "unreadable", "audit", "tombstones"]


@dataclass(frozen=True, slots=True)
class Keep:
    """For how many days each kind is kept."""

    sagas: int = 0
    states: int = 0
    dead_letters: int = 0
    unreadable: int = 0
    audit: int = 0
    tombstones: int = 0

    def problem(self) -> str | None:
        """Why these do not go together, if they do not.

        The services' states outlive the saga, so that a saga that is shown can always be compared; and what
        tells a repetition of an old fact from a new order outlives both.
        """
        if self.states and not 0 < self.sagas <= self.states:
            return "the services' states cannot be forgotten before their saga"
        return None
