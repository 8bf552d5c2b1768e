from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F

from attacks.base import Attack, Budget, Finding, Goal, Progress
from benchmark.errors import NotGranted, UserError
from benchmark.metrics.labels import directions
from benchmark.view import Knowledge, Phase, ServerView, Topology

Parameters = dict[str, Tensor]


class LabelMatching(Attack):
    """The published label inference of UnSplit: try every label and keep the one whose gradient is closest.

    For each target and candidate label, a clone of the client's tail computes the gradient that this sample alone would
    give; the candidate closest to the gradient observed is taken, and the clone is trained one step with it. Erdogan,
    Kupcu and Cicek (2022, arXiv 2108.09033). Their code reads the gradient of the tail's own first weight, which
    no server receives; with `observes=cut_gradient` the same rule reads what a server is really sent.

    What it must succeed on: a linear tail's weight gradient for single samples. That is p - onehot(label) times the
    tail's input, so that a clone of any weights names the label by its direction. Its size is that of the client's
    error, which the published distance compares as well: it is right as long as the tail is untrained, and loses one
    that has learned; planted clients have, and are met with `distance=cosine`. From the cut gradient no attack without
    known labels or the tail's weights can name a class: another order of the tail's outputs gives the same
    gradients. That form fails its planted client, and its failures say nothing for a defense.
    """

    name: ClassVar[str] = "label_matching"
    goals: ClassVar[tuple[Goal, ...]] = ("infer_labels",)
    planted: ClassVar[Mapping[str, object]] = {"distance": "cosine"}
    phases: ClassVar[tuple[Phase, ...]] = ("training",)
    topologies: ClassVar[tuple[Topology, ...]] = ("u_shaped",)

    observes: Literal["weight_gradient", "cut_gradient"] = Field(
        "weight_gradient", description="the tail's own gradient, as published, or the one the server is sent"
    )
    distance: Literal["mse", "cosine"] = Field("mse", description="between the observed and a candidate's gradient")
    clone_learning_rate: float = Field(
        1e-3, ge=0, description="of the clone's step after each target (Adam, amsgrad); 0 freezes the clone"
    )
    epoch: int = Field(-1, description="which epoch's gradients are read; -1 is the last")

    def knowledge(self) -> frozenset[Knowledge]:
        """The tail's architecture, and its weight gradients where they are what is observed."""
        weights = {Knowledge.WEIGHT_GRADIENTS} if self.observes == "weight_gradient" else set()
        return super().knowledge() | weights

    def run(self, views: Sequence[ServerView], budget: Budget, progress: Progress) -> list[Finding]:
        """Infer the labels of every view's targets, in order; views are lanes of one program.

        Raises:
            UserError: The tail has no parameters, or the epoch asked for does not exist.
        """
        tails = [view.new_tail(view.rng("clone of the tail")).eval() for view in views]
        if not any(True for _ in tails[0].parameters()):
            raise UserError("label_matching: the tail has no parameters to clone; let it begin with a weight layer")
        lanes = _lanes(tails[0], views[0].n_classes, budget)
        findings: list[Finding] = []
        for start in range(0, len(views), lanes):
            chosen = slice(start, start + lanes)
            part = partial(_part, progress, start / len(views), len(views[chosen]) / len(views))
            labels = self._match(tails[chosen], views[chosen], part)
            findings += [Finding(labels=row, steps=int(self.clone_learning_rate > 0)) for row in labels]
        return findings

    def _match(self, tails: list[nn.Module], views: Sequence[ServerView], progress: Progress) -> Tensor:
        inputs = torch.stack([at_epoch(self, view.body_outputs, self.epoch) for view in views])
        observed = torch.stack([self._observed(tail, view) for tail, view in zip(tails, views, strict=True)])
        matched = _first_parameter(tails[0]) if self.observes == "weight_gradient" else None
        clones, _ = stack_module_state(tails)
        optimiser = torch.optim.Adam(clones.values(), lr=self.clone_learning_rate, amsgrad=True)
        candidates = _candidate_gradients(tails[0], views[0].n_classes, inputs.device)

        lane = torch.arange(len(views), device=inputs.device)
        inferred = []
        for sample in range(inputs.shape[1]):
            weights, cut = candidates(_detached(clones), inputs[:, sample])
            guesses = cut if matched is None else weights[matched]
            best = _distances(guesses, observed[:, sample], self.distance).argmin(dim=1)
            inferred.append(best)
            # The step's gradient is the winning candidate's own: no second pass is needed.
            for name, clone in clones.items():
                clone.grad = weights[name][lane, best]
            optimiser.step()
            progress((sample + 1) / inputs.shape[1])
        return torch.stack(inferred, dim=1)

    def _observed(self, tail: nn.Module, view: ServerView) -> Tensor:
        if self.observes == "weight_gradient":
            return at_epoch(self, view.weight_gradients[_first_parameter(tail)], self.epoch)
        rows = at_epoch(self, view.cut_gradients, self.epoch)
        if view.loss_reduction == "sum" or view.batch_sizes is None:
            return rows
        # A row of the batch's mean loss is that of the sample's own loss over the batch size.
        sizes = at_epoch(self, view.batch_sizes, self.epoch)
        return rows * sizes.to(rows).reshape(-1, *[1] * (rows.dim() - 1))


def at_epoch(attack: Attack, series: Tensor | None, epoch: int) -> Tensor:
    """Entry `epoch` of [k, n, ...]; negative epochs count from the end.

    Raises:
        NotGranted: The view holds nothing of the kind.
        UserError: There is no such epoch.
    """
    if series is None:
        raise NotGranted(f"{attack.name}: the view holds no gradients; run it on u-shaped training")
    if not -len(series) <= epoch < len(series):
        raise UserError(
            f"{attack.name}: parameter epoch={epoch} is outside the {len(series)} epochs that the view holds; "
            f"choose from {-len(series)} to {len(series) - 1}"
        )
    return series[epoch]


def _candidate_gradients(
    tail: nn.Module, n_classes: int, device: torch.device
) -> Callable[[Parameters, Tensor], tuple[Parameters, Tensor]]:
    """Gradients by every candidate label, for lanes of clones ([v, *shape] each) and inputs [v, ...].

    Returns a function to ({parameter: [v, n_classes, *shape]}, [v, n_classes, ...]), the latter for the input.
    """

    def loss(clone: Parameters, x: Tensor, label: Tensor) -> Tensor:
        logits: Tensor = functional_call(tail, clone, (x[None],))
        return F.cross_entropy(logits, label[None])

    labels = torch.arange(n_classes, device=device)
    by_label = vmap(grad(loss, argnums=(0, 1)), in_dims=(None, None, 0))
    by_lane = vmap(by_label, in_dims=(0, 0, None))
    return lambda clones, x: by_lane(clones, x, labels)


def _distances(guesses: Tensor, observed: Tensor, distance: str) -> Tensor:
    """Distance of each of `guesses` [v, c, ...] to `observed` [v, ...], as [v, c]."""
    if distance == "mse":
        return (guesses - observed[:, None]).square().flatten(2).mean(dim=2)
    return 1 - (directions(guesses) * directions(observed[:, None])).sum(dim=2)


def _part(progress: Progress, start: float, share: float, done: float) -> None:
    progress(start + share * done)


def _first_parameter(tail: nn.Module) -> str:
    return next(iter(dict(tail.named_parameters())))


def _detached(parameters: Parameters) -> Parameters:
    return {name: value.detach() for name, value in parameters.items()}


def _lanes(tail: nn.Module, n_classes: int, budget: Budget) -> int:
    # A lane holds every candidate's gradient, a copy of the one compared, and the clone with its optimiser's state.
    numbers = sum(p.numel() for p in tail.parameters()) * (2 * n_classes + 5)
    return max(1, budget.memory // (4 * numbers))
