import json
import subprocess
import sys

import pytest
import torch

from attacks.inversion import problems as module
from attacks.inversion.problems import Problems, Sent, solve
from attacks.inversion.schedule import Schedule
from tests.server_views import clone, head, images

AMPLE = 2**40

# A real limit on the address space, in a process of its own. What one chunk of all lanes takes is far above it.
LIMITED = """
import json, resource, sys
import torch
from attacks.inversion import problems as module
from attacks.inversion.schedule import Schedule
from attacks.inversion.problems import Problems, Sent, solve
from tests.server_views import clone, head, images

n = 16
x = images(1).expand(128, -1, -1, -1)
targets = head("conv1")(x).detach().unsqueeze(0).expand(n, -1, -1, -1, -1)
given = Problems([clone("conv1", lane % 3) for lane in range(n)], x.mul(0.5).expand(n, *x.shape), Sent(targets))
plan = Schedule(1, 1, 1, 1e-3, 1e-3, 0.1, 1.0, 1)
sizes, inner = [], module.alternate
def counted(lanes, *others):
    sizes.append(len(lanes))
    return inner(lanes, *others)
module.alternate = counted
solve(Problems(given.heads[:1], given.starts[:1], Sent(targets[:1])), plan, 2**40, lambda done: None)
in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
sizes.clear()
if sys.argv[1] == "limited":
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 100_000_000, resource.RLIM_INFINITY))
outcome, heads = solve(given, plan, 2**40, lambda done: None)
print(json.dumps({"sizes": sizes, "lanes": outcome.images.shape[1], "heads": len(heads),
                  "sum": outcome.images.double().sum((0, 2, 3, 4, 5)).tolist()}))
"""


def given(n):
    starts = 0.5 + 0.01 * torch.arange(n).view(n, 1, 1, 1, 1).expand(n, 1, 1, 28, 28)
    targets = torch.stack([head("conv1", lane)(images(5)[lane : lane + 1]).detach() for lane in range(n)])
    return Problems([clone("conv1", lane) for lane in range(n)], starts, Sent(targets))


def plan():
    return Schedule(2, 3, 3, 1e-3, 1e-3, 0.1, 1.0, 1)


class Short:
    """Memory for so many lanes at once, and no more."""

    def __init__(self, most, inner, error):
        self.most, self.inner, self.error, self.tried = most, inner, error, []

    def __call__(self, lanes, *others):
        self.tried.append(len(lanes))
        if len(lanes) > self.most:
            raise self.error
        return self.inner(lanes, *others)


REFUSED = RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory: you tried")


@pytest.mark.parametrize("error", [REFUSED, MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_a_chunk_without_memory_goes_on_in_halves_to_the_same_result(monkeypatch, error):
    expected, expected_heads = solve(given(5), plan(), AMPLE, lambda done: None)
    short = Short(2, module.alternate, error)
    monkeypatch.setattr(module, "alternate", short)
    told = []
    found, heads = solve(given(5), plan(), AMPLE, told.append)
    assert short.tried == [5, 2, 3, 1, 2]
    torch.testing.assert_close(found.images, expected.images, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.losses, expected.losses, atol=1e-5, rtol=1e-4)
    for mine, theirs in zip(heads, expected_heads, strict=True):
        torch.testing.assert_close(mine.conv1.weight, theirs.conv1.weight, atol=1e-5, rtol=0)
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_what_is_too_long_once_is_not_tried_again(monkeypatch):
    short = Short(1, module.alternate, REFUSED)
    monkeypatch.setattr(module, "alternate", short)
    lane = module.bytes_per_lane(clone("conv1"), images(1))
    solve(given(5), plan(), 3 * lane, lambda done: None)
    assert short.tried == [2, 1, 1, 1, 1, 1]


def test_no_memory_for_a_single_lane_is_an_error(monkeypatch):
    monkeypatch.setattr(module, "alternate", Short(0, module.alternate, MemoryError("none at all")))
    with pytest.raises(MemoryError, match="none at all"):
        solve(given(2), plan(), AMPLE, lambda done: None)


def test_another_error_is_raised_at_once(monkeypatch):
    short = Short(0, module.alternate, RuntimeError("broken"))
    monkeypatch.setattr(module, "alternate", short)
    with pytest.raises(RuntimeError, match="broken"):
        solve(given(4), plan(), AMPLE, lambda done: None)
    assert short.tried == [4]


def in_a_process_of_its_own(which):
    done = subprocess.run([sys.executable, "-c", LIMITED, which], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_process_that_really_runs_out_of_memory_loses_no_lane():
    ample, limited = in_a_process_of_its_own("ample"), in_a_process_of_its_own("limited")
    assert ample["sizes"] == [16]
    assert limited["sizes"][:2] == [16, 8]
    assert limited["lanes"] == limited["heads"] == 16
    assert limited["sum"] == pytest.approx(ample["sum"], rel=1e-6)
