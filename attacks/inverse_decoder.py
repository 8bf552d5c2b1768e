"""A decoder trained on auxiliary images sent through the defended client: deeper is not safer against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

from pydantic import Field

from attacks.base import Attack, Budget, Finding, Goal, Progress, Stance
from attacks.clients.queried_client import QueriedClient
from attacks.decoding.decoder import Schedule, auxiliary, decode, finding
from benchmark.view import Knowledge, ServerView


class InverseDecoder(Attack):
    """Query the client with auxiliary images, learn to undo what it sends, and decode the targets.

    The inverse network of He, Zhang and Lee, "Model Inversion Attacks Against Collaborative Inference" (ACSAC 2019),
    Algorithm 2: minimise ||D(z(x)) - x||^2 over pairs (z(x), x). Three things differ from a plain decoder:

    - Smashed data are standardised over the auxiliary images, so that no fixed gain, offset or sign hides anything.
    - D is a linear decoder in closed form (ridge regression from all units to all pixels, which no fixed permutation
      or rotation hides from), then a local linear one that also reads the smashed data where they are maps, then
      residual convolutions. Both are fitted to what linear decoders make of images they were not fitted to
      (cross-fitting), so that they learn to mend real errors.
    - In the stances below that know of it, D learns to undo the defense's randomness along with the client.

    Stances; all of them learn about the defense through queries alone, and none is granted the defense:

    - `oblivious`, as published: one answer to each auxiliary image, as if the client always answered the same.
    - `aware`: every draw of a random client is fresh. The linear decoder is fitted to `draws` of them, the
      convolutions meet a new one each epoch.
    - `adaptive`, the default: besides, a target seen k times is decoded by decoders trained on means of k queries.

    In each stance a target is decoded from the mean of its k smashed data in the inference phase. In the training phase
    the head moves between epochs: the last epoch's are used, and in the adaptive stance earlier epochs' as well, as
    far as they have more noise than they differ by. Queries are answered as in the phase of the view. Against a client
    that always answers the same the three are one.

    Checkpoints: the linear decoders' images (step 0), and the mended ones.
    """

    name: ClassVar[str] = "inverse_decoder"
    version: ClassVar[int] = 2
    goals: ClassVar[tuple[Goal, ...]] = ("reconstruct",)
    stances: ClassVar[tuple[Stance, ...]] = ("oblivious", "aware", "adaptive")
    # Three hundred images show what an identity and one convolution do, 64 x 64 and in colour too.
    planted: ClassVar[Mapping[str, object]] = {"images": 300}

    stance: Stance = Field("adaptive", description="what it makes of a random client; see above")
    images: int = Field(2000, ge=50, description="auxiliary images used at most")
    draws: int = Field(8, ge=1, le=1000, description="answers to each image that the linear decoder is fitted to")
    queries: int = Field(40, ge=1, description="queries about an image at most, or 4 answers' worth if that is more")
    epochs: int = Field(12, ge=1, le=10_000, description="passes of the convolutions over the auxiliary images")
    batch_size: int = Field(32, ge=1, le=10_000, description="auxiliary images a gradient step")
    learning_rate: float = Field(1e-2, gt=0, le=1, description="peak learning rate of Adam; warm-up, then cosine")
    width: int = Field(16, ge=1, le=1024, description="channels of the convolutions")

    def knowledge(self) -> frozenset[Knowledge]:
        """Auxiliary images of the same distribution, and the right to query the defended client with them.

        Not the defense, in any stance: what it does shows in the answers.
        """
        return frozenset({Knowledge.ARCHITECTURE, Knowledge.AUXILIARY, Knowledge.QUERY})

    def run(self, views: Sequence[ServerView], budget: Budget, progress: Progress) -> list[Finding]:
        """Attack the views one after the other.

        Not as lanes: convolutions over a batch fill a core already, and eight decoders stacked by vmap took longer
        (5.4 ms a decoder and step on one thread) than one after the other (4.7 ms).
        """

        def report(first: int, done: float) -> None:
            progress((first + done) / len(views))

        return [self._attack(view, budget, partial(report, index)) for index, view in enumerate(views)]

    def _attack(self, view: ServerView, budget: Budget, progress: Progress) -> Finding:
        client = QueriedClient(view, auxiliary(view, self.images, self.name).images, self.stance, self.queries)
        schedule = Schedule(self.draws, self.epochs, self.batch_size, self.learning_rate, self.width)
        decoded = decode(client, client.targets, schedule, view.rng, budget.memory // 2, progress)
        return finding(decoded, schedule, len(client.images))
