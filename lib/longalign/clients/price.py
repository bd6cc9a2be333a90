"""What a run will ask, cost and take, before anything is sent: tokens counted, the rest by stated assumptions."""

from dataclasses import dataclass

TOKENS_PER_SECOND = 50.0
"""Assumed speed at which a server writes one reply."""


@dataclass(frozen=True)
class Estimate:
    """Requests still to be sent, tokens of prompts and, at most, of their replies; `known` have their reply already.

    What is not known before is left out: answers that fail their checks and are asked again.
    """

    requests: int
    known: int
    prompt_tokens: int
    reply_tokens: int

    def cost(self, price: tuple[float, float]) -> float:
        """In the price's currency; `price` is for a million tokens of prompts and of replies.

        >>> Estimate(requests=9, known=0, prompt_tokens=2_000_000, reply_tokens=100_000).cost((10.0, 30.0))
        23.0
        """
        return (self.prompt_tokens * price[0] + self.reply_tokens * price[1]) / 1e6

    def seconds(self, *, at_once: int, per_minute: float | None) -> float:
        """The longer of two: the rate allows no more, or replies are written at TOKENS_PER_SECOND, `at_once` at a time.

        >>> Estimate(9, 0, 0, 900).seconds(at_once=3, per_minute=None)
        6.0
        """
        writing = self.reply_tokens / TOKENS_PER_SECOND / at_once
        return max(writing, 60 * self.requests / per_minute if per_minute else 0.0)

    def text(self, *, price: tuple[float, float] | None, at_once: int, per_minute: float | None) -> str:
        """One sentence.

        >>> print(Estimate(9, 3, 9000, 900).text(price=(10.0, 30.0), at_once=3, per_minute=None))
        9 requests (3 more have their reply): 9,000 tokens of prompts, replies of 900 at most; about 0.12; about 6 s
        """
        more = f" ({self.known:,} more have their reply)" if self.known else ""
        cost = f"about {self.cost(price):,.2f}" if price else "no price given (--price IN OUT)"
        seconds = self.seconds(at_once=at_once, per_minute=per_minute)
        time = f"{seconds:,.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} min"
        return (f"{self.requests:,} requests{more}: {self.prompt_tokens:,} tokens of prompts, replies of "
                f"{self.reply_tokens:,} at most; {cost}; about {time}")  # fmt: skip
