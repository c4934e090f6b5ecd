"""What can go wrong with the local rig in ways a person can act on."""


class RigError(Exception):
    """An expected failure. The message is one clear line; `details` may hold log lines that explain it."""

    def __init__(self, message: str, *, details: str = "") -> None:
        super().__init__(message)
        self.details = details
