"""`python -m inventory_svc`: the service as a process."""

from inventory_svc.service import main

main()
