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


THOUGHTS_ALONE = "no reply after its thoughts"
CUT_OFF = "cut off"


class NoReply(EndpointError):
    """A reply that came, and is kept, but holds nothing that was asked for: `reason` says why, the same for all of a
    kind. Asked again in the same way the model would say the same. `thoughts` are those of a reasoning model."""

    def __init__(self, reason: str, detail: str = "", *, thoughts: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.thoughts = reason, thoughts
