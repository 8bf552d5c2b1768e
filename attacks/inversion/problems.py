"""Independent inversions side by side: what was sent, arranged as lanes, and solved in chunks that fit the memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor, nn

from attacks.clients.client_model import client_model
from attacks.clients.defended_path import ClientModel, DefendedPath
from attacks.clients.observed import observed
from attacks.inversion.alternate import Defended, alternate
from attacks.inversion.outcome import Outcome
from attacks.inversion.schedule import Schedule
from benchmark.finding import Finding
from benchmark.lane_chunks import chunked, rising
from benchmark.lanes import Lanes, bytes_per_lane
from benchmark.view import ServerView


@dataclass(frozen=True)
class Sent:
    """What the server saw, taken as targets [L, n, ...]; one lane a view to begin with.

    Attributes:
        targets: [L, n, ...].
        weights: [L, n, ...] what each squared error counts; None for who ignores the defense, as all below.
        levels: [L, 1] known variance of the noise in the targets; adaptive stance only.
        clients: A model for each view.
        places: (view, number of the lane within it), lane by lane.
    """

    targets: Tensor
    weights: Tensor | None = None
    levels: Tensor | None = None
    clients: Sequence[ClientModel] = ()
    places: Sequence[tuple[int, int]] = ()

    def repeated(self, times: int) -> Sent:
        """Every lane `times` times, side by side."""
        changed = self._changed(lambda part: part.repeat_interleave(times, 0))
        places = [(view, number * times + at) for view, number in self.places for at in range(times)]
        return replace(changed, places=places)

    def singly(self) -> Sent:
        """A lane for every target."""
        n = self.targets.shape[1]
        changed = self._changed(lambda part: part.flatten(0, 1).unsqueeze(1))
        places = [(view, number * n + at) for view, number in self.places for at in range(n)]
        levels = None if self.levels is None else self.levels.repeat_interleave(n, 0)
        return replace(changed, levels=levels, places=places)

    def of_target(self, target: int) -> Sent:
        """The same lanes with one target."""
        return replace(
            self,
            targets=self.targets[:, target : target + 1],
            weights=None if self.weights is None else self.weights[:, target : target + 1],
        )

    def part(self, lanes: slice) -> Sent:
        """Some of the lanes."""
        return replace(self._changed(lambda part: part[lanes]), places=self.places[lanes])

    def defended(self) -> Defended | None:
        """What the objective needs to know of the defense, or None."""
        if self.weights is None:
            return None
        return Defended(DefendedPath(self.clients, self.places, self.targets), self.weights, self.levels)

    def runs(self) -> list[tuple[slice, bool]]:
        """Neighbouring lanes whose clients keep black black before the head, or do not; with whether they do."""
        found = list[tuple[slice, bool]]()
        kept = [self.clients[view].keeps_black for view, _ in self.places] or [True] * len(self.targets)
        for keeps, run in groupby(range(len(kept)), key=kept.__getitem__):
            lanes = list(run)
            found.append((slice(lanes[0], lanes[-1] + 1), keeps))
        return found

    def _changed(self, change: Callable[[Tensor], Tensor]) -> Sent:
        return replace(
            self,
            targets=change(self.targets),
            weights=None if self.weights is None else change(self.weights),
            levels=None if self.levels is None else change(self.levels),
        )


def sent(views: Sequence[ServerView], stance: str, *, stand_in: bool = False) -> Sent:
    """What the views show, one lane each.

    Args:
        views: Of equal shapes; they grant `Knowledge.DEFENSE` unless the stance is oblivious.
        stance: `oblivious`: the mean of the k views, as if there were no defense. `aware`: the client's hooks are
            called. `adaptive`: their expectation is taken, masks are ignored, and the noise level is known.
        stand_in: Whether a defense's `attacker_model` takes the place of its hook, where it has one.
    """
    if stance == "oblivious":
        return Sent(torch.stack([view.smashed.detach().mean(0) for view in views]))
    clients = [client_model(view, expected=stance == "adaptive", stand_in=stand_in) for view in views]
    seen = [observed(view, client) for view, client in zip(views, clients, strict=True)]
    levels = torch.tensor([one.level for one in seen], device=views[0].device).unsqueeze(1)
    return Sent(
        torch.stack([one.target for one in seen]),
        torch.stack([one.weights for one in seen]),
        levels if stance == "adaptive" else None,
        clients,
        [(view, 0) for view in range(len(views))],
    )


@dataclass(frozen=True)
class Problems:
    """Heads (one a lane), starts [L, n, c, h, w] and what was sent, in as many lanes."""

    heads: Sequence[nn.Module]
    starts: Tensor
    sent: Sent


def solve(
    problems: Problems, schedule: Schedule, budget_bytes: int, progress: Callable[[float], None]
) -> tuple[Outcome, list[nn.Module]]:
    """Run all lanes in chunks that fit the memory; their outcome and the heads they ended with.

    That images are mostly black (`Schedule.l2`) is no help where the client's defense makes another colour of it:
    pulled to black they are bright when they enter the clone, which then saturates or dies. There it is left out.
    """
    lane_bytes = bytes_per_lane(problems.heads[0], problems.starts[0])
    # Rivals are compared with each other, so they have to be in one chunk.
    together = 1 if schedule.halved_after is None else schedule.rivals
    tell = rising(progress)
    done = list[tuple[Outcome, list[nn.Module]]]()
    for lanes_of, keeps_black in problems.sent.runs():
        asked = schedule if keeps_black else replace(schedule, l2=0.0)

        def work(run: range, first: int = lanes_of.start, asked: Schedule = asked) -> tuple[Outcome, list[nn.Module]]:
            part = slice(first + run.start * together, first + run.stop * together)
            lanes = Lanes(problems.heads[part], schedule.precision)
            given = problems.sent.part(part)

            def partly(fraction: float) -> None:
                tell((part.start + fraction * len(lanes)) / len(problems.heads))

            outcome = alternate(lanes, problems.starts[part], given.targets, asked, partly, given.defended())
            return outcome, [lanes.head(lane) for lane in range(len(lanes))]

        n_chunked = (lanes_of.stop - lanes_of.start) // together
        done += chunked(n_chunked, lane_bytes * together, budget_bytes, work)
    return Outcome.joined([outcome for outcome, _ in done]), [head for _, heads in done for head in heads]


def both(real: Finding, added: Finding) -> Finding:
    """The first finding with the second's images before its own."""
    assert real.reconstructions is not None  # inversions reconstruct
    assert added.reconstructions is not None
    return replace(
        real,
        reconstructions=torch.cat([added.reconstructions, real.reconstructions]),
        steps=real.steps + added.steps,
        checkpoints=[*added.checkpoints, *real.checkpoints],
    )
