from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field, PrivateAttr
from torch import Tensor, nn

from benchmark.accounting import dp_sgd_epsilon
from benchmark.errors import UserError
from defenses import private_modules
from defenses.base import Defense, PrivacyStatement, Side

if TYPE_CHECKING:
    from benchmark.data import Part
    from benchmark.models import Split
    from benchmark.protocol import Training
    from benchmark.seeds import Rng
    from defenses.private_optimiser import PrivateOptimiser


class DPSGD(Defense):
    """DP-SGD: clips and noises per-sample gradients while training; a guarantee for the released weights alone.

    Abadi et al. (2016, arXiv 1607.00133), algorithm 1, through Opacus, with Poisson batches; the noised sum is divided
    by the expected batch size. `scope` says what is private:

    - `joint`: all parts, under one flat clip: the root of the summed squares of a sample's gradient norms in all parts
      is at most C. The parties would have to reveal those norms to each other; that exchange is simulated and does not
      go over the wire.
    - `separate`: all parts, each under a clip of its own, noised on the same batch. With m parts a step is one Gaussian
      release of whitened sensitivity sqrt(m), accounted at `noise_multiplier` / sqrt(m).
    - `client`: head and tail, under one clip; the server trains as usual. No epsilon holds: the server's weights are a
      function of the data without noise, and the client's gradients depend on them.

    In no variant are activations protected: a server that trains along sees z = f(x) of raw records, and who is in
    which batch. The claim is for those who see the weights alone.
    """

    name: ClassVar[str] = "dp_sgd"
    side: ClassVar[Side] = "weights"
    per_sample: ClassVar[bool] = True

    scope: Literal["joint", "separate", "client"] = Field(
        "joint", description="which parts are private, under which clip"
    )
    noise_multiplier: float = Field(1.0, ge=0, description="standard deviation of the noise over max_grad_norm")
    max_grad_norm: float = Field(1.0, gt=0, description="clip C of a sample's gradient, L2")
    delta: float = Field(1e-5, gt=0, lt=1, description="failure probability; below 1 over the number of records")
    accountant: Literal["prv", "rdp"] = Field("prv", description="Opacus' accountant: numerical or Renyi composition")

    _probe: Tensor | None = PrivateAttr(None)

    def prepare(self, split: Split, data: Part, rng: Rng) -> Split:
        """Keep two images to try out whether a module mixes samples; the split stays as it is."""
        self._probe = data.images[:2].clone() if len(data.images) > 1 else None
        return split

    def privatise(self, training: Training) -> Training:
        """Wrap the private parts and their optimisers, and draw Poisson batches.

        Raises:
            UserError: A module mixes samples or has no per-sample gradients, or training is private already.
        """
        if training.private:
            raise UserError("defense dp_sgd: training is private already; list dp_sgd once")
        parts = training.parts()
        foreign = sorted(set(training.optimisers) - set(parts))
        if foreign:
            raise UserError(f"defense dp_sgd: optimiser {foreign[0]!r} belongs to no part; give each part its own")
        private = [n for n in parts if n in training.optimisers and (n != "body" or self.scope != "client")]
        if not private:
            raise UserError(
                f"defense dp_sgd: scope={self.scope} finds no weights to train; use another cut or scope=joint"
            )
        self._check(training, private)
        training.unwrap = _wrap(training, private)
        rng = training.rng.child("dp_sgd", "noise")
        clipped = [[name] for name in private] if self.scope == "separate" else [private]
        optimisers = {
            names[0] if self.scope == "separate" else self.scope: self._private(_joined(training, names), rng, training)
            for names in clipped
        }
        next(iter(optimisers.values())).attach_step_hook(self._count)
        training.optimisers.update(optimisers)
        training.private = frozenset(optimisers)
        training.sampling, training.reduction = "poisson", "sum"
        counts = {"steps": 0, "clips": len(clipped), "records": training.n_records, "batch_size": training.batch_size}
        self.state.update({key: torch.tensor(value, device="cpu") for key, value in counts.items()})
        return training

    def privacy(self) -> Sequence[PrivacyStatement]:
        """One claim, for the weights; nothing before `privatise`."""
        if "steps" not in self.state:
            return ()
        steps, clips, records, batch_size = (
            int(self.state[key]) for key in ("steps", "clips", "records", "batch_size")
        )
        why: str | None = None
        if self.scope == "client":
            why = (
                "the server's part was trained without noise on the same records, and the client's gradients depend on "
                "it, so that a record contributes more than the clip bounds"
            )
        elif self.delta * records >= 1:
            why = (
                f"delta={self.delta} is not below 1/{records}, one over the number of records: publishing a record at "
                "random would satisfy it"
            )
        epsilon = None
        if why is None:
            noise, rate = self.noise_multiplier / math.sqrt(clips), min(1.0, batch_size / records)
            epsilon = dp_sgd_epsilon(noise, rate, steps, self.delta, self.accountant)
        return (
            PrivacyStatement(
                view="weights",
                epsilon=epsilon,
                delta=self.delta,
                unit="record, against those who see the weights alone",
                adjacency="add-remove",
                accountant=f"opacus {self.accountant}",
                why_invalid=why,
            ),
        )

    def _check(self, training: Training, private: Sequence[str]) -> None:
        for name, part in training.parts().items():
            private_modules.refuse_batch_statistics(name, part)
            if name in private:
                private_modules.refuse_without_sample_gradients(name, part)
        if self._probe is not None:
            private_modules.refuse_mixing(training.parts(), self._probe, training.rng.child("dp_sgd", "probe"))

    def _private(self, optimiser: torch.optim.Optimizer, rng: Rng, training: Training) -> PrivateOptimiser:
        from defenses.private_optimiser import PrivateOptimiser

        return PrivateOptimiser(
            optimiser,
            rng,
            noise_multiplier=self.noise_multiplier,
            max_grad_norm=self.max_grad_norm,
            expected_batch_size=training.batch_size,
        )

    def _count(self, _: object) -> None:
        # Counted rather than planned: what was released is what is accounted for.
        self.state["steps"] = self.state["steps"] + 1


def _wrap(training: Training, names: Sequence[str]) -> Callable[[nn.Module], nn.Module]:
    """Let Opacus hook the named parts; returns what gives plain copies of them back."""
    from opacus.grad_sample import GradSampleModule

    before = training.unwrap
    hooked: dict[nn.Module, tuple[nn.Module, nn.Module]] = {}
    for name in names:
        part = training.parts()[name]
        # Copied before Opacus hooks the part: a copy of a hooked module would carry the hooks along.
        pristine = copy.deepcopy(part)
        wrapped = GradSampleModule(part, loss_reduction="sum")
        hooked[wrapped] = pristine, part
        setattr(training, name, wrapped)

    def unwrap(module: nn.Module) -> nn.Module:
        return before(_plain(*hooked[module]) if module in hooked else module)

    return unwrap


def _plain(pristine: nn.Module, trained: nn.Module) -> nn.Module:
    plain = copy.deepcopy(pristine).train(trained.training)
    plain.load_state_dict(trained.state_dict())
    for own, parameter in zip(plain.parameters(), trained.parameters(), strict=True):
        own.grad = None if parameter.grad is None else parameter.grad.detach().clone()
    return plain


def _joined(training: Training, names: Sequence[str]) -> torch.optim.Optimizer:
    """One optimiser over the named parts, in place of theirs."""
    first, *others = (training.optimisers.pop(name) for name in names)
    for other in others:
        if type(other) is not type(first):
            raise UserError(
                f"defense dp_sgd: one clip over all parts needs optimisers of one kind, not {type(first).__name__} and "
                f"{type(other).__name__}; use scope=separate"
            )
        for group in other.param_groups:
            first.add_param_group(group)
    return first
