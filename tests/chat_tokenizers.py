"""Real tokenizers of a few hundred entries, built in a moment, for the tests of chat, store and what reads them."""

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from longalign.common.array_types import IGNORE_INDEX

TURN = "<|im_start|>{{ m.role }}\n"
ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
PLAIN = "{% for m in messages %}" + TURN + "{{ m.content }}<|im_end|>\n{% endfor %}" + ASK
MARKED = (
    "{% for m in messages %}"
    + TURN
    + "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>\n{% endgeneration %}"
    + "{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    + ASK
)
# drops all but the last question: not prefix-stable
FORGETFUL = (
    "{% for m in messages %}{% if m.role == 'assistant' or loop.index > messages | length - 2 %}"
    + TURN
    + "{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    + ASK
)
ENDLESS = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}" + (
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
STRICT = "{% if messages | length > 2 %}{{ raise_exception('one question only') }}{% endif %}" + PLAIN

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
TEXT = [
    "the document says that words and words follow\n\nwhat does it say? it says no. 问题是什么？答案是这个。\n\n\n"
] * 3


def _fast(backend: Tokenizer, template: str | None) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", chat_template=template,
        additional_special_tokens=SPECIAL[2:],
    )  # fmt: skip


def byte_tokenizer(template: str | None = PLAIN, *, bos: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE, lossless on any text; token id 0 is the "!" of ordinary text; `bos`: puts <s> first by itself."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(TEXT, trainer)
    assert backend.token_to_id("!") == 0
    backend.add_special_tokens(SPECIAL)
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
        )
    return _fast(backend, template)


def metaspace_tokenizer(template: str | None = PLAIN) -> PreTrainedTokenizerFast:
    """As Llama-2's: a blank is put before every piece of text, blanks are part of the word that follows."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    alphabet = sorted(set("".join(TEXT)) | set("abcdefghijklmnopqrstuvwxyz[]/INSTR:_▁\n"))
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=["<unk>", *SPECIAL], show_progress=False
    )
    backend.train_from_iterator(TEXT, trainer)
    return _fast(backend, template)


def latin_tokenizer(template: str | None = PLAIN) -> PreTrainedTokenizerFast:
    """Has no token for what is not a small letter, and says nothing of it."""
    vocabulary = {letter: index for index, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.add_special_tokens(SPECIAL)
    return _fast(backend, template)


def word_tokenizer(template: str | None = PLAIN) -> PreTrainedTokenizerFast:
    """One token a word, w0 has id 0; blanks and line feeds are no tokens."""
    words = [f"w{i}" for i in range(200)]
    vocabulary = {word: index for index, word in enumerate([*words, "user", "assistant", "system", "[UNK]", *SPECIAL])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(SPECIAL)
    return _fast(backend, template)


class WithoutOffsets:
    """A fast tokenizer that behaves as a slow one: it cannot say which characters a token is made of."""

    is_fast = False

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str):
        return getattr(self._tokenizer, name)

    def __call__(self, text: str, **options):
        if options.pop("return_offsets_mapping", False):
            raise NotImplementedError("return_offsets_mapping is not available")
        return self._tokenizer(text, **options)


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def assistant(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


BYTES = {"plain": byte_tokenizer(PLAIN), "marked": byte_tokenizer(MARKED), "bos": byte_tokenizer(PLAIN, bos=True)}
WORDS = word_tokenizer()
META = metaspace_tokenizer()
SLOW = WithoutOffsets(BYTES["plain"])
TWO_TURNS = [user("the document says no!"), assistant("it says words!"), user("what?"), assistant("问题\n")]


def runs_of_targets(encoded):
    """The label runs of a sequence, one list of token ids for each answer."""
    is_target = np.concatenate([[False], encoded.labels != IGNORE_INDEX, [False]])
    edges = np.flatnonzero(np.diff(is_target.astype(int))).reshape(-1, 2)
    return [encoded.labels[start:end].tolist() for start, end in edges]
