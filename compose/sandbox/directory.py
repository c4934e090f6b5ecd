"""The customer directory: who a customer token is. Everybody in it is made up, and the same every time.

Tokens that cause trouble further on do so through what the directory says: the carrier sees a postcode
it does not serve, the mail server an address that bounces. Neither ever sees the token.
"""

from dataclasses import dataclass
from hashlib import blake2b

from compose.sandbox.operations import Manner

MAX_TOKEN_CHARACTERS = 100
MAIL_DOMAIN = "customers.example"
BOUNCING_MAILBOX = "bounces."

FIRST_NAMES = (
    "Ada",
    "Berta",
    "Carl",
    "Dora",
    "Emil",
    "Frida",
    "Gino",
    "Hana",
    "Igor",
    "Jana",
    "Kofi",
    "Lena",
)
LAST_NAMES = (
    "Amsel",
    "Brook",
    "Cole",
    "Dunn",
    "Ek",
    "Falk",
    "Gull",
    "Hart",
    "Iversen",
    "Jay",
    "Kite",
    "Lark",
)
STREETS = ("Starling Lane", "Reed Street", "Harbour Road", "Mill Walk", "Meadow Way", "Roost Hill")
PLACES = (("Utrecht", "3511 AB"), ("Zwolle", "8011 CD"), ("Leiden", "2312 EF"), ("Delft", "2611 GH"))


@dataclass(frozen=True, slots=True)
class Address:
    """Where a customer lives."""

    street: str
    city: str
    postcode: str
    country: str


UNSERVED = Address("Ferryman's Quay 1", "Far Isle", "9999 ZZ", "NL")

# Postcodes whose depot goes about every operation in its own manner.
DEPOTS = {
    "9901 SL": Manner.SLOW,
    "9902 FA": Manner.FAILS,
    "9903 FL": Manner.FLAKY,
    "9904 LO": Manner.LOST,
}
TOWNS = {
    "cust_carrier_slow": Address("Towpath 1", "Slackwater", "9901 SL", "NL"),
    "cust_carrier_fails": Address("Broken Bridge 1", "Wreckham", "9902 FA", "NL"),
    "cust_carrier_flaky": Address("Gusty Corner 1", "Flurry", "9903 FL", "NL"),
    "cust_carrier_lost": Address("Fog End 1", "Mistley", "9904 LO", "NL"),
    "cust_refused": UNSERVED,
}


@dataclass(frozen=True, slots=True)
class Customer:
    """What the directory says of a customer; no `device` means no push messages."""

    name: str
    email: str
    device: str | None
    address: Address


def customer_of(token: str) -> Customer | None:
    """The customer behind a token, or None when there is nobody."""
    if not token.startswith("cust_") or token.startswith("cust_unknown") or len(token) > MAX_TOKEN_CHARACTERS:
        return None
    digest = blake2b(token.encode(), digest_size=8).digest()
    first, last = FIRST_NAMES[digest[0] % len(FIRST_NAMES)], LAST_NAMES[digest[1] % len(LAST_NAMES)]
    mailbox = f"{first}.{last}".lower()
    if token.startswith("cust_mail_bounces"):
        mailbox = BOUNCING_MAILBOX + mailbox
    return Customer(
        name=f"{first} {last}",
        email=f"{mailbox}.{digest.hex()[:6]}@{MAIL_DOMAIN}",
        device=None if token.startswith("cust_no_push") else f"device-{digest.hex()}",
        address=_address(token, digest),
    )


def _address(token: str, digest: bytes) -> Address:
    for prefix, town in TOWNS.items():
        if token.startswith(prefix):
            return town
    city, postcode = PLACES[digest[2] % len(PLACES)]
    street = f"{STREETS[digest[3] % len(STREETS)]} {1 + digest[4] % 120}"
    return Address(street, city, postcode, "NL")
