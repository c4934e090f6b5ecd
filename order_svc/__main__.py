"""`python -m order_svc`: the service as a process."""

from events.runtime.process import run_service
from order_svc.service import SERVICE

if __name__ == "__main__":
    run_service(SERVICE)
