"""ChatGLM3's tokenizer converted to one of transformers' own, which gives the same tokens without remote code.

ChatGLM3 has a sentencepiece model of pieces merged in pairs (BPE) and, in remote code alone, special tokens numbered
after its last piece: [MASK] [gMASK] [sMASK] sop eop and one for each role. A text begins with [gMASK] sop. The special
tokens behind these two are named in the vocabulary and found in no text, not even where one spells them, as in the
original, and text is all that this tokenizer reads: LongAlign's format of conversations has no roles.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast
from transformers.tokenization_utils_base import generate_merges

PREFIX = ("[gMASK]", "sop")
SPECIAL = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
SPACE = "\u2581"  # sentencepiece's
BPE_MODEL, CONTROL, UNKNOWN = 2, 3, 2


def convert(model: Path | str, folder: Path | str) -> None:
    """Write the tokenizer of a sentencepiece file (chatglm3-6b/tokenizer.model, say) to a folder, for `AutoTokenizer`.

    Its configuration names the format of conversations, "chatglm". Raises ValueError for a file that is no
    sentencepiece model, or one of another kind.
    """
    proto = _read(Path(model))
    backend = _backend(proto)
    text = {"unk_token": proto.trainer_spec.unk_piece, "eos_token": proto.trainer_spec.eos_piece}
    # ChatGLM3 pads with its unknown piece, of which byte fallback leaves no other use
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, **text, pad_token=text["unk_token"], padding_side="left", chat_format="chatglm",
        model_input_names=["input_ids", "attention_mask"], clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.save_pretrained(folder)


def _read(path: Path) -> Any:
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except DecodeError:
        raise ValueError(f"{path} is not a sentencepiece model: fetch it again") from None
    if proto.trainer_spec.model_type != BPE_MODEL or not proto.trainer_spec.byte_fallback:
        raise ValueError(f"{path}: ChatGLM3's pieces are merged in pairs and fall back to bytes, these are not: "
                         "fetch the files of one model")  # fmt: skip
    return proto


def _backend(proto: Any) -> Tokenizer:
    pieces = [piece.piece for piece in proto.pieces]
    vocabulary = {piece: number for number, piece in enumerate([*pieces, *SPECIAL])}
    scores = {piece.piece: piece.score for piece in proto.pieces}
    unknown = proto.trainer_spec.unk_piece
    backend = Tokenizer(BPE(
        vocab=vocabulary, merges=generate_merges({piece: vocabulary[piece] for piece in pieces}, scores),
        unk_token=unknown, fuse_unk=True, byte_fallback=True,
    ))  # fmt: skip
    backend.normalizer = normalizers.Sequence(_normalizers(proto.normalizer_spec))
    begin = proto.normalizer_spec.add_dummy_prefix
    backend.decoder = decoders.Sequence([
        decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(),
        *([decoders.Strip(content=" ", left=1)] if begin else []),
    ])  # fmt: skip
    backend.post_processor = processors.TemplateProcessing(
        single=f"{' '.join(PREFIX)} $A", special_tokens=[(name, vocabulary[name]) for name in PREFIX]
    )
    control = [piece.piece for piece in proto.pieces if piece.type in (CONTROL, UNKNOWN)]
    backend.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in control])
    return backend


def _normalizers(spec: Any) -> list[Any]:
    """What sentencepiece does to a text before it looks for pieces."""
    steps: list[Any] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    return [*steps, normalizers.Replace(" ", SPACE)]
