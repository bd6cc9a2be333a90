"""Processes that work on parts: what they raise, how they die, and that an interrupt leaves none of them."""

import os
import signal
import subprocess
import sys
from multiprocessing import connection

import psutil
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


@pytest.fixture
def interrupts():
    """Interrupts raise, also where the tests were started with interrupts ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_that_comes_while_a_process_is_ended_is_an_interrupt(monkeypatch, interrupts):
    # cut short there, its end was made again, and that was a ValueError in place of the interrupt
    waitpid, children = os.waitpid, psutil.Process().children()

    def interrupted(pid, options):
        found = waitpid(pid, options)
        if found[0]:
            monkeypatch.setattr(os, "waitpid", waitpid)
            signal.raise_signal(signal.SIGINT)
        return found

    monkeypatch.setattr(os, "waitpid", interrupted)
    parts = [file_parts.Part(n, n + 1, n, "") for n in range(5)]
    with pytest.raises(KeyboardInterrupt):
        list(file_parts.in_order(iter(parts), lambda part, tell: part.end, workers=2))
    assert psutil.Process().children() == children


class Interrupting:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("later", [True, False], ids=["before the next call", "before the end"])
def test_an_interrupt_that_python_swallows_comes_all_the_same(interrupts, later):
    told = []
    with pytest.raises(KeyboardInterrupt), file_parts.heeding(told.append) as tell:
        tell("begin")
        Interrupting()
        if later:
            tell("never")
    assert told == ["begin"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_who_takes_interrupts_in_another_way_is_left_to_it(interrupts):
    taken = []
    signal.signal(signal.SIGINT, lambda number, frame: taken.append(number))
    with file_parts.heeding(print) as tell:
        signal.raise_signal(signal.SIGINT)
        assert tell is print and taken == [signal.SIGINT]


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
