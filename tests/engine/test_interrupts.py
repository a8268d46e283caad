# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import os
import signal
import subprocess
import threading

import pytest

from cmpf.engine.interrupts import SIGNALS, Interrupted, StopRequest


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_a_request_and_tells_what_happens(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    with StopRequest() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        assert stop.signal_name == number.name
    assert f"{number.name}: saving and stopping" in capfd.readouterr().err


def test_the_second_ctrl_c_is_not_held_back() -> None:
    with StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_earlier_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopRequest():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_inside_at_once_a_signal_interrupts() -> None:
    reached = []
    with StopRequest() as stop:
        with pytest.raises(Interrupted), stop.at_once():
            os.kill(os.getpid(), signal.SIGTERM)
        reached.append(stop.requested)
        with pytest.raises(Interrupted), stop.at_once():  # a request made before counts too
            reached.append("not reached")
    assert reached == [True]


def test_after_a_request_a_dying_loader_worker_raises_nothing() -> None:
    def worker_died(number: int, frame: object) -> None:
        raise RuntimeError("DataLoader worker is killed by signal: Terminated")

    before = signal.signal(signal.SIGCHLD, worker_died)
    try:
        with StopRequest():
            os.kill(os.getpid(), signal.SIGTERM)
            subprocess.run(["true"], check=True)
        assert signal.getsignal(signal.SIGCHLD) is worker_died
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_another_thread_than_the_main_one_installs_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)
    inside = []

    def run() -> None:
        with StopRequest():
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert inside == [before]
