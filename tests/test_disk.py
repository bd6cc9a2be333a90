"""A disk without room is named, in whatever words a library tells of it."""

import subprocess
import sys
from dataclasses import dataclass

import pytest

from longalign.common import disk
from longalign.train import workers
from naps import Nap

WRITERS = {
    "torch": "import torch; torch.save(torch.zeros(10**5), path)",
    "safetensors": "import torch; from safetensors.torch import save_file; save_file({'a': torch.zeros(10**5)}, path)",
    "a file": "open(path, 'wb').write(bytes(10**5))",
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_what_writers_say_of_a_file_that_found_no_room_is_known(tmp_path, write):
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (9999, 9999)); path = sys.argv[1]"
    command = [sys.executable, "-c", f"{limited}\n{write}", str(tmp_path / "file")]
    told = subprocess.run(command, capture_output=True, text=True).stderr
    last = told.strip().splitlines()[-1]
    assert "Error" in last and disk.is_full(RuntimeError(last)), told
    assert not disk.is_full(RuntimeError("loss is nan"))


@dataclass(frozen=True)
class Filling(Nap):
    """Fails as torch does where a checkpoint finds no room."""

    def perform(self):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")


def test_a_training_that_finds_no_room_says_so_and_what_to_do(tmp_path):
    with pytest.raises(OSError, match=r"the disk became full \(.*unexpected pos.*make room, or name .*LONGALIGN_RUNS"):
        workers.execute(Filling("a", str(tmp_path)))
    with pytest.raises(InterruptedError, match="woken"):
        workers.execute(Nap("b", str(tmp_path), seconds=0, fails=True))


def test_a_worker_whose_log_finds_no_room_either_ended_for_want_of_it(tmp_path, monkeypatch):
    """The log of a disk that is full ends within a traceback, whose last line says nothing."""
    monkeypatch.setattr(disk, "has_no_room", lambda folder: folder == tmp_path / "b")
    with pytest.raises(RuntimeError, match=r"b: the disk became full \('b' failed .*: make room, or name .*stays$"):
        workers.execute_all([Nap("b", str(tmp_path), fails=True)])
