"""`python -m order_svc`: the service as a process."""

from order_svc.service import main

main()
