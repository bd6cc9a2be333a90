"""What commands load by name: tokenizers, from folders, the Hub or this package; quietly, no remote code."""

import sys
from typing import Any


def load_tokenizer(name: str | None) -> Any:
    """The tokenizer of a folder or Hub name, the miniature's own without one, and says so. Raises ValueError."""
    from transformers.utils import logging

    from longalign.data import tokenizers

    logging.set_verbosity_error()
    quiet_hub()
    if name is not None:
        return tokenizers.load(name)
    print("longalign: no --tokenizer given: tokens are those of the miniature's own tokenizer", file=sys.stderr)
    return tokenizers.load(tokenizers.MINIATURE)


def quiet_hub() -> None:
    """No warnings of the Hub's library, and its progress bars on a terminal alone."""
    from huggingface_hub import utils

    utils.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        utils.disable_progress_bars()
