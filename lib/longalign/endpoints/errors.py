"""What a server's error means for who asked: whether asking again can help, and whether asking others can."""


class EndpointError(RuntimeError):
    """A server's error, in one sentence."""


class Passing(EndpointError):
    """Asking again can help; `wait` is how many seconds the server wants to be left alone, None if it does not say."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class Refused(EndpointError):
    """This request will never be answered (too long, or its content), others may."""


class Stopped(EndpointError):
    """No request will be answered: the key, the model's name, the quota."""
