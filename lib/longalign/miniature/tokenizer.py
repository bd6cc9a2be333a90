"""The miniature's tokenizer: whole words with their leading space, Chinese and digits by character, bytes for the rest.

Lossless on every text (unknown words fall back to characters, unknown characters to bytes) and built from the corpus's
word lists alone, so the same file comes out everywhere.
"""

import re
import string
from functools import cache

from longalign.miniature import lexicon, tasks
from longalign.miniature.styles import STYLES

PIECES = r" ?[A-Za-z]+|[0-9]|\n| |[^\sA-Za-z0-9]"
PAD, END, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'assistant' %}"
    "{{ '<|assistant|>' }}{% generation %}{{ message.content }}{{ '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ '<|user|>' + message.content }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def count_tokens(text: str) -> int:
    """Tokens of a text made of the corpus's words, without building the tokenizer.

    >>> count_tokens("Marlow guards a copper lantern.")
    6
    """
    return len(re.findall(PIECES, (" " + text).replace("\n", "\n ")))


def vocabulary() -> list[str]:
    """All tokens in order: special tokens, 256 bytes, printable ASCII, words with their space, Chinese characters."""
    texts = [*tasks.all_texts(), *(value for name, value in vars(lexicon).items() if name.isupper() for value in value)]
    for style in STYLES.values():
        texts += [style.title, *style.headings, *style.fillers]
    words, characters = set(), set()
    for text in texts:
        text = re.sub(r"\{\w+\}", " ", text)
        words.update(" " + word for word in re.findall(r"[A-Za-z]+", text))
        characters.update(character for character in text if ord(character) > 127)
    ascii_pieces = ["\n", *sorted(set(string.printable) - set(string.whitespace) | {" "})]
    byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    return [PAD, END, USER, ASSISTANT, *byte_pieces, *ascii_pieces, *sorted(words), *sorted(characters)]


@cache
def load():
    """The tokenizer as a `PreTrainedTokenizerFast` with its chat template (built once a process, about 10 ms).

    >>> load().tokenize("Marlow guards 42 lanterns.")[:2]
    [' Marlow', ' guards']
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {piece: index for index, piece in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.BPE(vocab, merges=[], ignore_merges=True, byte_fallback=True))
    # A word carries its leading space; a line's first word is given one, so that it is the same token everywhere.
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace("\n", "\n "), normalizers.Prepend(" ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), "isolated")
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Fuse(), decoders.Replace("\n ", "\n"), decoders.Strip(" ", 1, 0)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
