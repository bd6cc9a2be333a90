"""A store's tokenizer: a model of another vocabulary is refused, and what was trained keeps the tokenizer."""

import copy
import json
import shutil

import pytest
from benchmarks.models import small
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from chat_tokenizers import byte_tokenizer
from longalign.common import paths
from longalign.data import store_tokenizer
from longalign.data.chat import tokenizer_hash
from longalign.data.tokenize_files import tokenize_jsonl
from longalign.miniature import tokenizer as miniature
from longalign.train import jobs
from longalign.train.runs import Run
from longalign.train.workers import execute

WORDS = ["<e>", "who", "Marlow", "leads"]
TEMPLATE = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }}<e>{% endfor %}"


def words(folder, *, vocabulary=WORDS, template=TEMPLATE, added=()):
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token=vocabulary[0]))
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<e>", unk_token="<e>")
    made.add_tokens(list(added), special_tokens=True)
    made.chat_template = template
    made.save_pretrained(folder)
    return folder


def manifest(folder, **changes):
    name = str(folder)
    made = AutoTokenizer.from_pretrained(name)
    return {"tokenizer": name, "tokenizer_sha256": tokenizer_hash(made), "chat_format": "template", **changes}


def test_a_word_that_is_another_in_the_model_is_refused_and_added_tokens_and_templates_may_differ(tmp_path):
    used = manifest(words(tmp_path / "used", added=["<mine>"]))
    for name, changes in (("template", {"template": "other"}), ("added", {"added": ["<theirs>"]}), ("same", {})):
        assert store_tokenizer.compare(used, words(tmp_path / name, **changes)) == []
    other = words(tmp_path / "other", vocabulary=["<e>", "Marlow", "who", "leads"])
    with pytest.raises(ValueError, match="in which token 1 is 'who'; in the model's own, in .*other, it is 'Marlow'"):
        store_tokenizer.compare(used, other)
    assert store_tokenizer.compare(used, tmp_path) == [], "a folder without a tokenizer has nothing to compare"


def test_a_tokenizer_that_another_class_would_read_beside_the_trained_model_is_refused(tmp_path):
    """As beside a Qwen2: transformers makes every tokenizer there a Qwen2Tokenizer, which cuts words at digits."""
    made = byte_tokenizer()
    made.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.save_pretrained(tmp_path / "used")
    used, qwen = manifest(tmp_path / "used"), AutoConfig.for_model("qwen2")
    with pytest.raises(ValueError, match="of the type qwen2 .* Qwen2Tokenizer .*tokenize with --tokenizer my-model"):
        store_tokenizer.check_kept(used, "my-model", qwen)
    store_tokenizer.check_kept(used, "my-model", AutoConfig.for_model("llama"))
    qwen.save_pretrained(tmp_path / "used")  # what is advised
    store_tokenizer.check_kept(manifest(tmp_path / "used"), "my-model", qwen)
    store_tokenizer.check_kept({**used, "tokenizer": str(tmp_path / "nowhere")}, "my-model", qwen)


def test_the_trainings_command_refuses_a_tokenizer_that_the_trained_model_could_not_keep(tmp_path, capsys):
    byte_tokenizer().save_pretrained(tmp_path / "used")
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Marlow."}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    used = AutoTokenizer.from_pretrained(tmp_path / "used")
    tokenize_jsonl(tmp_path / "a.jsonl", used, tmp_path / "store", progress=lambda *_: None)
    small.build("qwen2").save_pretrained(tmp_path / "m")
    (tmp_path / "job.yaml").write_text(f"model: {tmp_path}/m\ndata: {tmp_path}/store\ntraining: {{warmup_ratio: 0}}\n")
    for options in (["--dry-run"], []):
        assert jobs.main([str(tmp_path / "job.yaml"), "--out", str(tmp_path / "trained"), *options]) == 2
        assert "makes it a Qwen2Tokenizer" in capsys.readouterr().err
    assert not (tmp_path / "trained").exists()


def test_a_tokenizer_that_is_gone_or_was_changed_is_told_and_the_models_own_goes_with_it(tmp_path):
    own, trained = words(tmp_path / "own"), tmp_path / "trained"
    trained.mkdir()
    changed = manifest(own, tokenizer_sha256="0")
    for gone in (changed, {**changed, "tokenizer": str(tmp_path / "nowhere")}):
        (told,) = store_tokenizer.compare(gone, own)
        assert "could not be seen" in told and gone["tokenizer"] in told
        assert told.endswith("gets the model's own tokenizer and chat template")
        store_tokenizer.write(gone, str(own), trained)
        assert tokenizer_hash(AutoTokenizer.from_pretrained(trained)) == manifest(own)["tokenizer_sha256"]


def test_a_tokenizer_that_was_moved_is_taken_from_the_model_with_the_format_of_the_store(tmp_path):
    """As when data are tokenized on another machine, or from another working folder."""
    own, trained = words(tmp_path / "own"), tmp_path / "trained"
    gone = manifest(own, tokenizer=str(tmp_path / "nowhere"), chat_format="llama")
    assert store_tokenizer.compare(gone, own) == []
    trained.mkdir()
    store_tokenizer.write(gone, str(own), trained)
    assert AutoTokenizer.from_pretrained(trained).init_kwargs["chat_format"] == "llama"


def test_a_format_that_the_trained_model_could_not_be_asked_in_is_refused(tmp_path):
    gone = manifest(words(tmp_path / "own"), tokenizer=str(tmp_path / "nowhere"), chat_format="llama")
    with pytest.raises(ValueError, match=r"nowhere\) is not there.*chat format llama.*--tokenizer .*other"):
        store_tokenizer.compare(gone, words(tmp_path / "other", template="another"))


def test_a_finished_model_gets_a_template_that_was_mended_since_and_loses_none(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path / "runs"))
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Marlow."}]
    (tmp_path / "a.jsonl").write_text((json.dumps({"messages": turns}) + "\n") * 4)
    mended = miniature.CHAT_TEMPLATE + "{# mended #}"
    made = copy.deepcopy(miniature.load())

    def run_of(template):
        made.chat_template = template
        made.save_pretrained(tmp_path / "used")
        used = AutoTokenizer.from_pretrained(tmp_path / "used")
        tokenize_jsonl(tmp_path / "a.jsonl", used, tmp_path / "store", progress=lambda *_: None)
        new = {"name": "mini-6b", "vocab_size": len(made), "max_length": 32, "seed": 0}
        settings = {"capacity": 32, "micro_batches_per_step": 1, "epochs": 1, "snapshots": 1}
        return Run("a", str(tmp_path / "store"), settings, new_model=new)

    first = run_of(miniature.CHAT_TEMPLATE)
    execute(first)
    assert not first.renew_tokenizer()
    second = run_of(mended)
    assert second.finished
    write, left = store_tokenizer.write, []

    def write_and_be_killed(*given):
        write(*given)
        left.pop()
        if not left:
            raise KeyboardInterrupt

    for writes in (1, 2):  # of the snapshot, and of the model
        left += range(writes)
        with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
            killed.setattr(store_tokenizer, "write", write_and_be_killed)
            second.renew_tokenizer()
        assert second.finished, "what was trained is not lost"
    second.renew_tokenizer()
    assert not second.renew_tokenizer() and second.finished
    assert {"model/tokenizer.json", "model/model.safetensors"} <= set(second.record()["files"])
    for folder in (second.model, *second.snapshots.iterdir()):
        assert AutoTokenizer.from_pretrained(folder).chat_template == mended
    shutil.rmtree(tmp_path / "used")
    assert second.finished and not second.renew_tokenizer()


def test_a_trained_model_has_the_tokenizer_of_its_store_and_the_format_that_it_learnt(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGALIGN_RUNS", str(tmp_path / "runs"))
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Marlow."}]
    (tmp_path / "a.jsonl").write_text((json.dumps({"messages": turns}) + "\n") * 4)
    made = miniature.load()
    for chat_format in ("template", "llama"):
        quietly = {"chat_format": chat_format, "progress": lambda *_: None}
        tokenize_jsonl(tmp_path / "a.jsonl", made, tmp_path / "store", **quietly)
        new = {"name": "mini-6b", "vocab_size": len(made), "max_length": 32, "seed": 0}
        settings = {"capacity": 32, "micro_batches_per_step": 1, "epochs": 1, "snapshots": 1}
        run = Run(chat_format, str(tmp_path / "store"), settings, new_model=new)
        execute(run)
        for folder in (run.model, *run.snapshots.iterdir()):
            kept = AutoTokenizer.from_pretrained(folder)
            assert kept.get_vocab() == made.get_vocab() and kept.chat_template == made.chat_template
            assert kept.init_kwargs.get("chat_format", "template") == chat_format


def test_a_trained_model_names_the_end_of_its_stores_answers_beside_its_own(tmp_path):
    """A base model names the end of a text alone; who generates from the folder would never see an answer end."""
    used, settings = byte_tokenizer(), tmp_path / "generation_config.json"
    used.save_pretrained(tmp_path / "used")
    end = used.convert_tokens_to_ids("<|im_end|>")
    for named, after in ((7, [7, end]), ([7, end], [7, end]), (None, end), (end, end)):
        settings.write_text(json.dumps({"eos_token_id": named, "top_k": 20}))
        store_tokenizer.write(manifest(tmp_path / "used"), "", tmp_path)
        assert json.loads(settings.read_text()) == {"eos_token_id": after, "top_k": 20}


def test_a_model_without_settings_of_generation_gets_none(tmp_path):
    store_tokenizer.write(manifest(words(tmp_path / "used")), "", tmp_path)
    assert not (tmp_path / "generation_config.json").exists()


def test_the_trainings_command_compares_before_anything_is_trained(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    turns = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Marlow."}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    tokenize_jsonl("a.jsonl", miniature.load(), tmp_path / "store", progress=lambda *_: None)
    words(tmp_path / "m", vocabulary=[*WORDS, *map(str, range(20))])
    for file in ("config.json", "model.safetensors"):
        (tmp_path / "m" / file).symlink_to(paths.bases() / "mini-6b" / file)
    (tmp_path / "job.yaml").write_text("model: m\ndata: store\ntraining: {capacity: 64, warmup_ratio: 0}\n")
    for options in (["--dry-run"], []):
        assert jobs.main(["job.yaml", "--out", "trained", *options]) == 2
        assert "the store was made with the tokenizer miniature" in capsys.readouterr().err
    assert not (tmp_path / "trained").exists()
