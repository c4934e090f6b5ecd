"""The service as the others know it: a name and a `decide`, from whose types the rest follows."""

from events.service import Service
from notification_svc.decide import NAME, decide

SERVICE = Service(NAME, decide)
