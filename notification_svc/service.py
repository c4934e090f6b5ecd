"""The service, wired: its decide, its tables, its mail server and push service."""

from events.runtime.host import Parts
from events.runtime.process import run_service
from events.runtime.settings import read_settings
from events.service import Service
from notification_svc.decide import decide
from notification_svc.gateway import NotificationSettings, gateway_from
from notification_svc.store import NOTICES

SERVICE = Service("notification", decide)


def main() -> None:
    """Run until stopped."""
    settings = read_settings(NotificationSettings)
    run_service(Parts(SERVICE, NOTICES, gateway_from(settings)), settings, [])
