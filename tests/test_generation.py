"""Greedy answers are argmax, whatever generation_config.json asks for; what is ignored is told, and is hashed."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from benchmarks.models import small
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from chat_tokenizers import PLAIN, byte_tokenizer
from longalign.cli import main
from longalign.clients.generation import end_tokens, forget_foreign_windows
from longalign.clients.local_model import LocalModel
from longalign.clients.reply_store import Request
from longalign.common.provenance import hash_model
from longalign.data.chat import encode_prompt
from longalign.evals.decoding import greedy
from longalign.miniature import tokenizer as miniature
from longalign.train.models import load_model

WORDS, ROOM = miniature.load(), 24
ASKED = Request([{"role": "user", "content": "the old town stands there " * 4}], ROOM)
SETTINGS = {
    "a penalty": {"repetition_penalty": 3.0},
    "a least length": {"min_new_tokens": 20, "no_repeat_ngram_size": 2},
    "sampling": {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20},
    "beams": {"num_beams": 3, "length_penalty": 2.0},
    "suppressed tokens": {"suppress_tokens": list(range(300, 900))},
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A small random model of the miniature's vocabulary, without settings of generation."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=512, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def asking(plain, tmp_path):
    """The model, whose generation_config.json holds these settings."""

    def build(**settings):
        shutil.copytree(plain, tmp_path / "model", dirs_exist_ok=True)
        told = {"eos_token_id": 1, "pad_token_id": 0, **settings}
        (tmp_path / "model" / "generation_config.json").write_text(json.dumps(told))
        return tmp_path / "model"

    return build


def argmax(model, *, ends=(1,)):
    """Token by token, from the logits of the model alone."""
    ids = torch.from_numpy(encode_prompt(ASKED.messages, WORDS)).long()[None].to(model.device)
    start = ids.shape[1]
    with torch.no_grad():
        for _ in range(ROOM):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
            if int(ids[0, -1]) in ends:
                break
    return ids[0, start:].tolist()


def text(ids):
    return WORDS.decode(ids, skip_special_tokens=True).strip()


def test_an_answer_ends_where_the_chat_template_ends_it_in_training():
    """A base model that was trained on conversations still names the end of a text in its settings."""
    tokenizer = byte_tokenizer(PLAIN)
    named = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=5))
    ends = sorted([5, tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")])
    assert end_tokens(named, tokenizer) == ends
    tokenizer.chat_template = None
    assert end_tokens(named, tokenizer) == sorted([5, tokenizer.eos_token_id])


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_an_answer_is_argmax_whatever_the_folder_asks_for_and_that_is_told(settings, asking, capsys):
    model = LocalModel(str(asking(**settings)))
    told = capsys.readouterr().err
    assert model.ask(ASKED).text == text(argmax(model.loaded))
    assert "answers are greedy (the most likely token)" in told
    assert all(f"{name} {value}" in told for name, value in settings.items())


@pytest.mark.parametrize("foreign", [{"sliding_window": 8}, {"layer_types": ["full_attention", "sliding_attention"]},
                                     {"attention_chunk_size": 8}], ids=str)  # fmt: skip
def test_a_window_that_the_class_does_not_have_is_not_one_of_its_answers(foreign, asking):
    """A Mistral that was saved as a Llama: its answers follow from all tokens, as its training did."""
    folder = asking()
    expected = argmax(LocalModel(str(folder)).loaded)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | foreign))
    assert LocalModel(str(folder)).ask(ASKED).text == text(expected)


@pytest.mark.parametrize("name", ["mistral", "llama4_text"])
def test_a_window_that_the_class_has_is_left_alone(name):
    model = small.build(name)
    window = {"mistral": "sliding_window", "llama4_text": "attention_chunk_size"}[name]
    setattr(model.config, window, 5)
    forget_foreign_windows(model)
    assert getattr(model.config, window) == 5


def test_without_other_settings_nothing_is_told(asking, capsys):
    LocalModel(str(asking(bos_token_id=2, use_cache=True, output_attentions=False, do_sample=False)))
    assert "greedy" not in capsys.readouterr().err


def test_a_changed_file_of_settings_is_another_model_so_that_no_old_answer_is_taken(asking):
    models, weights = set(), set()
    for settings in ({}, {"repetition_penalty": 3.0}, {"repetition_penalty": 2.0}, {"eos_token_id": [1, 7]}):
        folder = asking(**settings)
        models.add(LocalModel(str(folder)).model)
        weights.add(hash_model(folder))
    assert len(models) == len(weights) == 4


def test_every_end_token_that_the_folder_names_ends_an_answer(asking):
    free = argmax(LocalModel(str(asking())).loaded)
    stop = free[5]
    until = free[: free.index(stop)]
    folder = asking(eos_token_id=[1, stop])
    local = LocalModel(str(folder))
    reply = local.ask(ASKED)
    assert local.ends == [1, stop] and (reply.text, reply.finish) == (text(until), "stop")
    own = load_model(folder)
    prompt = torch.from_numpy(encode_prompt(ASKED.messages, WORDS)).long()
    assert greedy(own, [prompt], end=end_tokens(own, WORDS), room=ROOM) == [until]


def test_a_model_that_names_no_end_token_is_refused():
    tokenizer = byte_tokenizer(None)
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="names a token that ends an answer"):
        end_tokens(SimpleNamespace(generation_config=None), tokenizer)


@pytest.mark.parametrize("benchmark", ["longbench-chat", "mt-bench", "short"])
def test_a_folder_without_a_tokenizer_is_refused_by_every_evaluation(benchmark, tmp_path, capsys):
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                         num_attention_heads=2)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    with pytest.raises(SystemExit) as stopped:
        main.main(["eval", benchmark, "--model", str(tmp_path / "model"), "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2 and "holds no tokenizer: name one with --tokenizer" in capsys.readouterr().err


def test_a_folder_that_is_named_as_a_tokenizer_and_holds_none_is_refused(plain, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit) as stopped:
        main.main(["eval", "longbench-chat", "--model", str(plain), "--tokenizer", str(tmp_path / "empty"),
                  "--out", str(tmp_path / "out")])  # fmt: skip
    assert stopped.value.code == 2 and "holds no tokenizer" in capsys.readouterr().err


def test_that_a_miniatures_own_tokenizer_is_taken_is_told(plain, tmp_path, capsys):
    given = ("--model", str(plain), "--window", "512", "--limit", "1", "--out", str(tmp_path))
    assert main.main(["eval", "longbench-chat", *given]) == 0
    assert "holds no tokenizer; its vocabulary and end token are the miniature's" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{broken", "[1]", ""])
def test_settings_that_cannot_be_read_are_refused_for_end_tokens_stand_there(tmp_path, text):
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(ValueError, match=r"generation_config\.json: it is not valid JSON .*correct it, or remove it"):
        LocalModel(str(tmp_path))


def test_a_model_that_sees_what_it_is_to_predict_is_not_evaluated(tmp_path):
    small.build("bert", is_decoder=False).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="sees the tokens that it is to predict .is_decoder: False"):
        LocalModel(str(tmp_path), tokenizer="miniature")


def test_an_end_token_that_is_no_number_is_refused(asking):
    with pytest.raises(ValueError, match="eos_token_id holds '</s>', which is no token's number"):
        LocalModel(str(asking(eos_token_id=[1, "</s>"])))


def test_a_model_whose_attention_only_its_own_code_computes_answers_by_that(tmp_path):
    sizes = {"vocab_size": len(WORDS), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
             "head_dim": 8, "num_attention_heads": 4, "num_key_value_heads": 2, "query_pre_attn_scalar": 8}  # fmt: skip
    torch.manual_seed(0)
    Gemma2ForCausalLM(Gemma2Config(**sizes, pad_token_id=0, eos_token_id=1, bos_token_id=2)).save_pretrained(tmp_path)
    model = LocalModel(str(tmp_path))
    assert model.loaded.config._attn_implementation == "eager", "the others drop the cap of its scores"
    assert model.ask(ASKED).text == text(argmax(model.loaded))


def broken(folder, change):
    """The model of a folder with other weights."""
    model = LlamaForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        change(model)
    model.save_pretrained(folder)
    return LocalModel(str(folder))


def overflowing(model):
    """One token's output is infinity, another's minus infinity, and none is NaN."""
    model.model.norm.weight.zero_()[0] = 1000.0
    model.lm_head.weight[3:5, 0] = torch.tensor([3e38, -3e38])


@pytest.mark.parametrize("change", [lambda model: model.lm_head.weight.fill_(float("nan")), overflowing],
                         ids=["not a number", "infinite"])  # fmt: skip
def test_outputs_that_are_no_numbers_are_refused_and_no_score_is_made_of_them(asking, change):
    """argmax takes the first of them, and a harness the first answer."""
    model = broken(asking(), change)
    with pytest.raises(ValueError, match=r"no numbers \(NaN or infinite\), computed in torch.float32: check its weigh"):
        model.ask(ASKED)
    with pytest.raises(ValueError, match="no numbers"):
        model.loaded(torch.tensor([[2, 3]]))  # as a harness asks
    masked = broken(asking(), lambda model: model.lm_head.weight[5:].fill_(0.0))
    assert masked.ask(ASKED).text is not None


def test_an_overflow_in_float16_is_refused(asking):
    folder = asking()
    model = LlamaForCausalLM.from_pretrained(folder)
    for layer in model.model.layers:
        layer.mlp.up_proj.weight.data.mul_(3e5)
    model.half().save_pretrained(folder)
    with pytest.raises(ValueError, match="torch.float16: .* save it in float32, which does not overflow"):
        LocalModel(str(folder)).ask(ASKED)


def test_a_window_over_the_table_of_positions_is_refused(tmp_path):
    config = GPT2Config(vocab_size=len(WORDS), n_positions=64, n_embd=32, n_layer=1, n_head=2, eos_token_id=1)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    WORDS.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a table of 64 positions, and the window is 65: give --window 64 at most"):
        LocalModel(str(tmp_path), window=65)
    assert LocalModel(str(tmp_path)).window == 64
