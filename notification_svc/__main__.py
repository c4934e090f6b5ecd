"""`python -m notification_svc`: the service, wired and run as a process."""

from events.runtime.host import Parts
from events.runtime.process import run_service
from events.runtime.settings import read_settings
from notification_svc.gateway import NotificationSettings, gateway_from
from notification_svc.repository import NOTICES
from notification_svc.service import SERVICE


def main() -> None:
    """Run until stopped."""
    settings = read_settings(NotificationSettings)
    run_service(Parts(SERVICE, NOTICES, gateway_from(settings)), settings, [])


if __name__ == "__main__":
    main()
