from __future__ import annotations

import os
import subprocess
import sys

from benchmark.executors.held import allowed, held_by_groups

_HOLDS = """
import os, sys
kept = bytearray(os.urandom(1)) * (64 * 2**20)
child = os.fork()
if child == 0:
    kept = bytearray(b"x") * (64 * 2**20)
    print("ready", flush=True)
sys.stdin.read()
if child:
    os.waitpid(child, 0)
"""


def test_what_a_process_and_its_children_hold_is_counted_together() -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        held = held_by_groups([holder.pid, os.getpgid(0)])
        assert 128 * 2**20 < held[holder.pid] < 256 * 2**20
        assert held[os.getpgid(0)] > 0
    finally:
        holder.communicate()


def test_a_group_that_has_ended_holds_nothing() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    ended.wait()
    assert held_by_groups([ended.pid]) == {ended.pid: 0}


def test_a_part_of_the_machine_is_allowed() -> None:
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < allowed() <= 0.9 * physical
