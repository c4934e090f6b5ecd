"""What the rig tells while it works. This base says nothing; the command line shows it."""


class Progress:
    """Told by the rig, possibly from several threads at once."""

    def starting(self, name: str) -> None:
        """A server or process is being started."""

    def ready(self, name: str) -> None:
        """It does its work now."""

    def stopping(self, name: str) -> None:
        """It was told to stop."""

    def stopped(self, name: str) -> None:
        """It is gone."""

    def note(self, text: str) -> None:
        """Something worth a line of its own."""
