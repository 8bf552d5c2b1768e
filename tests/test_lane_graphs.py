import pytest
import torch

from attacks.inversion.alternate import alternate
from attacks.inversion.schedule import Schedule
from benchmark.lane_graphs import EAGER_CALLS, Replayed
from benchmark.lanes import Lanes
from tests.server_views import clone, head, images

# What is replayed can only be compared where there is a CUDA device.
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def inverted(device):
    lanes = Lanes([clone("pool1", lane).to(device) for lane in range(3)])
    targets = torch.stack([head("pool1", lane)(images(2)).detach() for lane in range(3)]).to(device)
    start = torch.linspace(0.4, 0.6, 28, device=device).expand(3, 2, 1, 28, 28)
    return alternate(lanes, start, targets, Schedule(1, 30, 30, 1e-3, 1e-3, 0.1, 1.0, 1), lambda fraction: None)


@pytest.mark.parametrize("device", DEVICES)
def test_steps_on_any_device_are_those_of_the_cpu(device):
    torch.testing.assert_close(inverted(device).images.cpu(), inverted("cpu").images, atol=1e-4, rtol=0)


def test_a_function_is_called_as_it_is_before_recording_pays():
    called = []
    function = Replayed(lambda x: called.append(1) or 2 * x)
    for number in range(EAGER_CALLS):
        assert function(torch.tensor(number)) == 2 * number
    assert len(called) == EAGER_CALLS


def test_what_cannot_be_recorded_goes_on_being_called():
    # On a CPU nothing can.
    function = Replayed(lambda x: 2 * x)
    assert [int(function(torch.tensor(number))) for number in range(EAGER_CALLS + 3)] == [
        2 * number for number in range(EAGER_CALLS + 3)
    ]


def test_on_a_cpu_nothing_is_recorded():
    lanes = Lanes([clone("pool1")])
    forward = lanes.frozen()
    assert not isinstance(forward, Replayed)
    assert forward(images(1).unsqueeze(0)).shape == (1, 1, 8, 12, 12)
