"""Processes that work on parts: what they raise, how they die, and that an interrupt leaves none of them."""

import os
import signal
import subprocess
import sys
from multiprocessing import connection

import pytest

from longalign.data import file_parts

FORKED = """
import os, signal
import psutil
from longalign.data.file_parts import Part, in_order

signal.signal(signal.SIGINT, signal.default_int_handler)
os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.SIGINT))
try:
    list(in_order(iter([Part(0, 2, 0, "")]), lambda part, tell: part.end, workers=1))
finally:
    print(len(psutil.Process().children()), "left")
"""


def test_an_interrupt_that_comes_while_a_process_is_forked_is_not_lost():
    # what is raised in the functions that Python calls around a fork is printed as ignored, and all would go on
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=60)
    assert done.returncode and done.stderr.rstrip().endswith("KeyboardInterrupt"), done.stderr
    assert done.stdout == "0 left\n", "the process that was forked is ended"


class Unpicklable(Exception):
    def __init__(self, what, where):
        super().__init__(f"{what} at {where}")
        self.held = lambda: None


class Demanding(Exception):
    def __init__(self, what, where):
        super().__init__(f"{what} at {where}")


@pytest.mark.parametrize("kind", [Unpicklable, Demanding])
def test_an_error_that_cannot_be_sent_says_the_same_in_another_class(kind):
    def work(part, tell):
        raise kind("a fault", "line 3")

    with pytest.raises(RuntimeError, match=f"{kind.__name__}: a fault at line 3"):
        list(file_parts.in_order(iter([file_parts.Part(0, 2, 0, "")]), work, workers=1))


def test_a_process_that_dies_while_it_sends_is_told(monkeypatch):
    send = connection.Connection._send

    def half(self, content, write=None):
        if len(content) < 10**6:
            return send(self, content) if write is None else send(self, content, write)
        os.write(self.fileno(), content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(connection.Connection, "_send", half)
    with pytest.raises(file_parts.WorkerDied, match="signal 9"):
        list(file_parts.in_order(iter([file_parts.Part(0, 2, 0, "")]), lambda part, tell: bytes(10**7), workers=1))
