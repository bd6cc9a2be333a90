"""Small sentencepiece models, trained on the generated corpus: the form of ChatGLM3's and Llama's tokenizers."""

import io

import sentencepiece

from longalign.miniature import samples


def corpus():
    """Generated documents, English and Chinese, line by line."""
    for index in range(60):
        document = samples.base_document("spm", 0, index, length=400)["text"]
        yield from (line for line in document.splitlines() if line)


def train(path, **options):
    """A sentencepiece model of the kind of ChatGLM3's, small."""
    written = io.BytesIO()
    settings = {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity",
                "remove_extra_whitespaces": False, "vocab_size": 900, "character_coverage": 0.98}  # fmt: skip
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=corpus(), model_writer=written, unk_id=0, bos_id=1, eos_id=2, minloglevel=2,
        **settings | options,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(written.getvalue())
    return path
