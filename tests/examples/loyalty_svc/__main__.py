"""`python -m loyalty_svc`: the service as a process."""

from events.runtime.process import run_service
from loyalty_svc.service import SERVICE

if __name__ == "__main__":
    run_service(SERVICE)
