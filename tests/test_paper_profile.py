"""The profile paper on small models and data of the released forms: fetched from a Hub, trained, scored, tabulated."""

import json
from dataclasses import replace

import pytest
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

import test_chatglm
import test_released
import tiny_spm
from hub_server import serving
from longalign.common import paths
from longalign.data.chat_formats import format_of
from longalign.data.store import TokenStore
from longalign.experiments import design, training_data
from longalign.experiments.base_models import Start, first, starts
from longalign.experiments.profiles import load_profile
from longalign.fetch import fetching
from longalign.miniature import released_sets
from longalign.reproduction import smoke
from longalign.reproduction.execute import execute, prepare
from longalign.train.models import load_model
from longalign.train.parallelism import Parallelism
from test_hub import contents

WINDOW = 1024


def small_profile():
    """profiles/paper.yaml with the sizes of the smoke profile; sources, notebooks and formats are its own."""
    small = yaml.safe_load((paths.profiles() / "paper.yaml").read_text())
    like = yaml.safe_load((paths.profiles() / "smoke.yaml").read_text())
    small |= {name: like[name] for name in ("corpus", "training", "evaluation")}
    small["corpus"] |= {"min_long": 128, "max_length": WINDOW, "max_short": 400, "long": 8, "short": 6}
    small["training"] |= {"capacity": WINDOW, "sequences_per_step": 6, "rows": 2, "micro_batches_per_step": 3}
    small["training"] |= {"packs_per_step": 2}
    small["evaluation"] |= {"lengths": [128, WINDOW], "needle_lengths": [256, WINDOW]}
    small |= {"name": "tiny", "engine": {}, "windows": [WINDOW // 2, WINDOW]}
    small["extension"] |= {"max_length": WINDOW}
    return small


def glm(folder):
    """ChatGLM3's files: its config and weights by its names, its tokenizer, the code that tells its RoPE ratio."""
    count = 1024
    config = {**test_chatglm.CONFIG, "padded_vocab_size": count, "seq_length": WINDOW, "rope_ratio": None}
    test_chatglm.save(folder, test_chatglm.checkpoint(config), config)
    tiny_spm.train(folder / "tokenizer.model")
    (folder / "modeling_chatglm.py").write_text("raise SystemExit('this code is not to be run')\n")
    return contents(folder)


def llama(folder, layers):
    """Llama-2's files: weights in shards, a tokenizer of sentencepiece without a chat template."""
    tiny_spm.train(folder / "tokenizer.model", add_dummy_prefix=True)
    told = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
            "add_bos_token": True, "add_eos_token": False, "legacy": False}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    config = LlamaConfig(vocab_size=900, hidden_size=32, intermediate_size=48, num_hidden_layers=layers, head_dim=16,
                         num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=WINDOW)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="50KB")
    assert (folder / "model.safetensors.index.json").is_file()
    return contents(folder)


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    """The small profile, all of its sources fetched from a server in the Hub's place; the network is off then."""
    folder = tmp_path_factory.mktemp("paper")
    for name in ("glm", "7b", "13b", "data"):
        (folder / name).mkdir()
    data = test_released.write(folder / "data")
    files = {"chatglm3-6b-64k": glm(folder / "glm"), "llama-2-7b-64k": llama(folder / "7b", 1),
             "llama-2-13b-64k": llama(folder / "13b", 2)}  # fmt: skip
    for source in load_profile("paper").sources:
        if source.kind == "data":
            (name,) = source.files
            (file,) = (path for path in (data / source.name).iterdir() if path.name != "source.json")
            files[source.name] = {name: file.read_bytes()}
    (folder / "root" / "profiles").mkdir(parents=True)
    for name in ("pyproject.toml", "lib", "notebooks", "claims.yaml", "results"):
        (folder / "root" / name).symlink_to(paths.root() / name)
    (folder / "root/profiles/tiny.yaml").write_text(yaml.safe_dump(small_profile(), default_flow_style=None))
    with pytest.MonkeyPatch.context() as environment, serving() as server:
        environment.setenv("LONGALIGN_ROOT", str(folder / "root"))
        environment.setenv("LONGALIGN_RUNS", str(folder / "runs"))
        environment.delenv("HF_TOKEN", raising=False)
        profile = load_profile("tiny")
        for source in profile.sources:
            kind = "datasets/" if source.kind == "data" else ""
            server.add(kind + source.hub, files[source.name], commit=source.revision or "b" * 40)
            fetching.fetch(source, endpoint=server.url)
        environment.setenv("HF_HUB_OFFLINE", "1")
        yield profile


def test_models_come_with_tokenizers_that_write_longaligns_formats(profile):
    formats = {start.model: format_of(start.encode) for start in starts(profile)}
    assert formats == {"chatglm3-6b-64k": "chatglm", "llama-2-7b-64k": "llama", "llama-2-13b-64k": "llama"}
    assert type(load_model(Start(profile, "chatglm3-6b-64k").folder)).__name__ == "GlmForCausalLM"


def test_a_suite_holds_the_released_samples_in_the_format_and_tokens_of_each_model(profile):
    begins = {"chatglm3-6b-64k": "[gMASK]sop[Round 1]\n\n问：", "llama-2-7b-64k": "<s>[INST]"}
    for model, begin in begins.items():
        start = Start(profile, model)
        store, words = training_data.suite_store(start, "LongAlign-10k"), start.encode
        assert isinstance(store, TokenStore) and len(store) == 8 + 6 and store.lengths.max() <= WINDOW
        text = words.decode(store[0]["input_ids"]).replace(" [", "[").replace("sop ", "sop")
        assert text.startswith(begin + "Long ") and text.endswith("Yes.</s>"), text
        answer = store[0]["labels"][store[0]["labels"] >= 0]
        assert words.decode(answer).strip() == "Yes.</s>"
    rows = store.folder.with_name("LongAlign-10k.jsonl").read_text().splitlines()
    assert all(json.loads(line)["messages"] for line in rows)


def test_nothing_is_extended_and_trainings_start_at_what_was_fetched(profile):
    assert design.long_bases(profile) == []
    runs = design.model_scale(profile)
    assert {arm.model: run.start for arm, run in runs.items()} == {
        start.model: str(start.folder) for start in starts(profile)
    }
    assert len({run.key for run in runs.values()}) == len(runs)


def test_a_fetched_model_is_tried_by_lora_where_its_engine_has_no_devices(profile):
    model = "llama-2-7b-64k"
    start = Start(profile, model)
    folder, encode = start.folder, start.encode
    run = smoke.training(replace(profile, engine=Parallelism(ranks=8, zero=3)), model, folder, encode, whole=False)
    assert run.engine == {} and run.training["lora_rank"] == profile.training.lora_rank
    run.perform()
    assert run.record()["steps"] == smoke.STEPS and (run.model / "adapter").is_dir()
    assert isinstance(smoke.answer(run.model, encode, smoke.QUESTION), str)


def test_data_that_a_suite_needs_and_the_profile_does_not_name_are_asked_for(profile):
    less = replace(profile, sources=tuple(s for s in profile.sources if s.name != released_sets.ALPACA))
    with pytest.raises(ValueError, match="profile tiny: sources name LongAlign-10k, ShareGPT, and not LongAlpaca-12k"):
        training_data.suite_store(first(less), "LongAlpaca-12k")


@pytest.mark.slow
def test_the_notebooks_of_the_profile_paper_run_on_what_was_fetched(profile):
    for number in profile.notebooks:
        (source,) = paths.notebooks().glob(f"{number}_*.ipynb")
        outcome = execute(prepare(source, profile="tiny"))
        assert outcome.state == "executed", outcome.report()
    records = [path.stem[:2] for path in paths.run_dir("tiny").glob("[0-9][0-9]_*.json")]
    assert sorted(records) == sorted(profile.notebooks)
