"""`python -m payment_svc`: the service as a process."""

from payment_svc.service import main

main()
