"""`python -m notification_svc`: the service as a process."""

from notification_svc.service import main

main()
