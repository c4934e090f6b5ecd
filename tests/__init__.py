"""Tests of the five services, whatever other services are installed beside them."""

import os

from events.runtime.definition import CHOSEN_VARIABLE

os.environ.setdefault(CHOSEN_VARIABLE, "order,inventory,payment,fulfillment,notification")
