# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The one message for all faults."""

from __future__ import annotations

from pathlib import Path

from cmpf.config.faults import Fault, Origin, as_error

FILE = Path("/configs/x.yaml")


def test_faults_of_one_file_share_its_name():
    faults = [Fault("A", "bad", Origin(FILE, 3)), Fault("B", "worse", Origin(FILE, 9))]
    assert str(as_error(faults)).endswith("/configs/x.yaml: line 3: A: bad · line 9: B: worse")
    assert str(as_error(faults)).startswith("2 faults in ")


def test_faults_of_several_places_each_name_their_own():
    faults = [Fault("A", "bad", Origin(FILE, 3)), Fault("B", "worse", Origin())]
    assert "x.yaml line 3: A: bad · override: B: worse" in str(as_error(faults))


def test_a_fault_without_place_and_key_is_its_message():
    assert str(as_error([Fault("", "gone", None)])) == "1 fault: gone"
