"""`python -m fulfillment_svc`: the service as a process."""

from fulfillment_svc.service import main

main()
