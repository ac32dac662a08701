"""Errors named by what to do about them. They are caught in one place, the pass."""


class TedgeAgentdError(Exception):
    """The base of our own errors; `remedy` is what the operator can do."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class InputError(TedgeAgentdError):
    """Nothing helps but a change of the input: report it and wait for one."""


class TransientError(TedgeAgentdError):
    """May pass by itself: try again in `retry_in` seconds, or at the next change."""

    def __init__(self, message: str, remedy: str = "", *, retry_in: float = 5.0) -> None:
        super().__init__(message, remedy)
        self.retry_in = retry_in


class VerifyError(TedgeAgentdError):
    """The broker does not serve what it was given: roll back."""


class SandboxStaleError(TedgeAgentdError):
    """A directory appeared after the service's mount namespace was made: restart the daemon to be let in."""


class StoppingError(Exception):
    """The daemon is told to stop while it waits. Not one of the above: no step has failed, the pass ends here."""
