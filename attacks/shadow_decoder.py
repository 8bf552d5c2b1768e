"""A decoder for a head of the attacker's own, which takes the client's place: it needs no query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import count
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from attacks.base import Attack, Budget, Finding, Goal, Progress, Stance
from attacks.clients.client_model import client_model
from attacks.clients.defended_path import ClientModel
from attacks.clients.queried_client import QueriedClient
from attacks.decoding.decoder import Schedule, auxiliary, decode, finding
from attacks.decoding.shadow_head import MEASUREMENTS, MOST_DRAWS, ShadowSchedule, train_shadow
from benchmark.view import Knowledge, ServerView


class ShadowDecoder(Attack):
    """Train a head that suits the server's body and sends what the client sends; decode the targets as it would be.

    The query-free attack of He, Zhang and Lee, "Model Inversion Attacks Against Collaborative Inference" (ACSAC 2019),
    Algorithm 3: f' such that g(f'(x)) classifies auxiliary images, g being the server's frozen body; and a decoder for
    f', as in the naive baseline of Zhu et al., "Passive Inference Attacks on Split Learning via Adversarial
    Regularization" (SDAR, NDSS 2025). Here f' is besides held to the mean, covariance and values of the 3x3 patches of
    what the client sent, which the server has seen: min CE(g(f'(x)), y) + matching * mismatch
    (`attacks.decoding.patch_statistics`), which determines a client of one convolution. The body alone leaves f' too
    free: leakage .63 without these statistics and .94 with them at pool1, .48 and .78 at pool2 (`mnist-5k`, ten
    targets, undefended, seed 0). The decoder is the one of `inverse_decoder`, with f' in the client's place.

    Stances:

    - `oblivious`: f' alone, as if there were no defense.
    - `aware`: the defenses' own hooks stand between f' and body, in the phase of the view, and between f' and decoder;
      fresh draws throughout, straight-through gradients where a hook has none.
    - `adaptive`: besides, statistics and decoder are those of means of as many draws as a target was seen.

    In the training phase the last epoch's smashed data are used, by the adaptive stance earlier ones too as
    `inverse_decoder` does. Checkpoints: the linear decoders' images, and the mended ones. The trace's
    `training_loss` is the product of the head's objective and the decoder's error, each at the same share of its own
    training: it rests where both do.
    """

    name: ClassVar[str] = "shadow_decoder"
    goals: ClassVar[tuple[Goal, ...]] = ("reconstruct",)
    stances: ClassVar[tuple[Stance, ...]] = ("oblivious", "aware", "adaptive")
    # Sixteen images of 64 x 64 hold as many patches as are looked at; the colours' kernels take twice the steps.
    planted: ClassVar[Mapping[str, object]] = {"shadow_steps": 800, "shadow_batch_size": 16, "shadow_lr": 0.03}

    images: int = Field(2000, ge=50, description="auxiliary images used at most")
    shadow_steps: int = Field(400, ge=1, le=10_000_000, description="gradient steps on the shadow head")
    shadow_batch_size: int = Field(64, ge=2, le=10_000, description="auxiliary images a step on the shadow head")
    shadow_lr: float = Field(1e-2, gt=0, le=1, description="peak learning rate on the shadow head")
    matching: float = Field(2.0, ge=0, le=1e6, description="weight of the statistics of what was sent")
    draws: int = Field(8, ge=1, le=1000, description="answers to each image that the linear decoder is fitted to")
    queries: int = Field(40, ge=1, description="draws of the defense an image at most, or 4 answers' worth if more")
    epochs: int = Field(MEASUREMENTS, ge=1, le=10_000, description="passes of the convolutions over the images")
    batch_size: int = Field(32, ge=1, le=10_000, description="auxiliary images a gradient step of the convolutions")
    learning_rate: float = Field(1e-2, gt=0, le=1, description="peak learning rate of the convolutions")
    width: int = Field(16, ge=1, le=1024, description="channels of the convolutions")

    def knowledge(self) -> frozenset[Knowledge]:
        """Labelled auxiliary images of the same distribution; the defense unless oblivious."""
        return super().knowledge() | {Knowledge.AUXILIARY}

    def run(self, views: Sequence[ServerView], budget: Budget, progress: Progress) -> list[Finding]:
        """Attack the views one after the other; see `InverseDecoder.run`."""

        def report(first: int, done: float) -> None:
            progress((first + done) / len(views))

        return [self._attack(view, budget, partial(report, index)) for index, view in enumerate(views)]

    def _attack(self, view: ServerView, budget: Budget, progress: Progress) -> Finding:
        part = auxiliary(view, self.images, self.name)
        model = ClientModel() if self.stance == "oblivious" else client_model(view, expected=False)
        sent = view.smashed if view.phase == "inference" else view.smashed[-1:]
        draws = min(len(sent), MOST_DRAWS) if self.stance == "adaptive" else 1
        shadow, shadow_losses = train_shadow(
            view,
            part,
            # Means of as many views as of draws; views that do not fill another mean are left out.
            sent[: len(sent) // draws * draws].unflatten(0, (-1, draws)).mean(dim=1).flatten(0, 1),
            draws,
            model,
            ShadowSchedule(self.shadow_steps, self.shadow_batch_size, self.shadow_lr, self.matching),
            lambda done: progress(done / 2),
        )
        numbers = count(MOST_DRAWS * (self.shadow_steps + 2))

        def sends(x: Tensor) -> Tensor:
            with torch.no_grad():
                return shadow(x, next(numbers))

        client = QueriedClient(view, part.images, self.stance, self.queries, sends)
        schedule = Schedule(self.draws, self.epochs, self.batch_size, self.learning_rate, self.width)
        decoded = decode(
            client, client.targets, schedule, view.rng, budget.memory // 2, lambda done: progress((1 + done) / 2)
        )
        return finding(decoded, schedule, len(part), shadow_losses, self.shadow_steps)
