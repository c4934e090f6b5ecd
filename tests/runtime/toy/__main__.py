"""`python -m tests.runtime.toy`: the toy as a process."""

from tests.runtime.toy.service import main

main()
