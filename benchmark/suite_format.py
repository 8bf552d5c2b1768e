"""What a suite may say: its keys, their types and bounds. See `benchmark.suite` for how a file is read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from benchmark.cell import TargetRule, Watch
from benchmark.errors import UserError
from benchmark.parameters import nearest
from benchmark.spec import Spec, composed_from_yaml, from_yaml

Seed = Annotated[int, Field(ge=0, lt=2**31)]
# A suite's tables go into a folder of its name, beside these of the output folder and of `results`.
TAKEN = frozenset({"victims", "logs", "reconstructions", "perturbed", "baselines", "planted.json", "__init__.py"})
Name = Annotated[str, Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)


class Targets(_Part):
    """How private samples are chosen; see `benchmark.cell.TargetRule`.

    Attributes:
        how: `first_of_class`, `per_class` or `drawn`.
        n: Samples a class (`per_class`) or in all (`drawn`).
        seed: Of the draw (`drawn`).
    """

    how: Literal["first_of_class", "per_class", "drawn"] = "first_of_class"
    n: int = Field(1, ge=1)
    seed: Seed = 0

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.how == "first_of_class" and self.n != 1:
            raise ValueError("first_of_class takes one sample a class; write how: per_class for more")
        if self.how != "drawn" and self.seed:
            raise ValueError("a seed draws nothing here; write how: drawn, or leave it out")
        return self

    def rule(self) -> TargetRule:
        """The same as a value of the plan."""
        return TargetRule(self.how, self.n, self.seed)


class Watching(_Part):
    """What the server's view of training is kept for.

    Attributes:
        targets: Among the victim's own data.
        known_per_class: Further samples a class whose labels attackers may be granted.
        batch_size: Watch one more pass after the last epoch instead of the epochs, in batches of this size that update
            nothing: what a server sees of a step, whatever the victim was trained with, and before any training too.
    """

    targets: Targets = Targets(how="per_class", n=1)
    known_per_class: int = Field(0, ge=0)
    batch_size: int | None = Field(None, ge=1)

    def watch(self) -> Watch:
        """The same as a value of the plan."""
        return Watch(self.targets.rule(), self.known_per_class, self.batch_size)


class Schedule(_Part):
    """How victims are trained: Adam with amsgrad.

    Attributes:
        epochs: Passes over the victim's data; 0 leaves it untrained.
        batch_size: Records a step.
        learning_rate: Of every part's optimiser.
    """

    epochs: int = Field(5, ge=0)
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(1e-3, gt=0, allow_inf_nan=False)


class AttackEntry(_Part):
    """An attack and where it is run.

    Attributes:
        attack: Which, with its parameters.
        phase: When the server saw the targets.
        views: How often: queries (inference; 1 by default) or latest epochs (training; all by default).
        seeds: Of the attack's own draws.
        targets: Instead of the suite's; in training, among those the suite watches.
        cuts: Only these of the block's.
        defenses: `all` of the block's, or `none` alone.
        assumes: The model that the attacker takes for the victim's; the victim's own where it is not given. Such an
            attack has a threat model of its own, `architecture of MODEL`.
    """

    attack: Spec
    phase: Literal["inference", "training"] = "inference"
    views: int | None = Field(None, ge=1)
    seeds: tuple[Seed, ...] = Field((0,), min_length=1)
    targets: Targets | None = None
    cuts: tuple[Name, ...] | None = Field(None, min_length=1)
    defenses: Literal["all", "none"] = "all"
    assumes: Name | None = None

    @field_validator("attack", mode="before")
    @classmethod
    def _read(cls, value: object) -> Spec:
        return value if isinstance(value, Spec) else _spec(value)

    @field_validator("seeds", "cuts", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return _distinct(value)


class Block(_Part):
    """A part of the matrix: every defense at every cut under every attack, for every data set, model and seed.

    Attributes:
        name: For messages.
        topology: `vanilla`, or `u_shaped` with the tail's first module in `tail`.
        cuts: Names of the head's last modules.
        defenses: Each entry a plug-in or a list of them that is applied in order; no entry for `none`.
        attacks: See `AttackEntry`.
        datasets, models, seeds, training, watch: As the suite's where the block gives none of its own.
    """

    name: Name
    topology: Literal["vanilla", "u_shaped"] = "vanilla"
    tail: Name | None = None
    cuts: tuple[Name, ...] = Field(min_length=1)
    defenses: tuple[tuple[Spec, ...], ...] = Field(min_length=1)
    attacks: tuple[AttackEntry, ...] = Field(min_length=1)
    datasets: tuple[Name, ...] = Field(min_length=1)
    models: tuple[Name, ...] = Field(min_length=1)
    seeds: tuple[Seed, ...] = Field(min_length=1)
    training: Schedule
    watch: Watching | None = None

    @field_validator("cuts", "datasets", "models", "seeds", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return _distinct(value)

    @field_validator("attacks", mode="before")
    @classmethod
    def _attacks(cls, value: object) -> object:
        if not isinstance(value, list):
            return value
        return tuple(entry if isinstance(entry, dict) and "attack" in entry else {"attack": entry} for entry in value)

    @field_validator("defenses", mode="before")
    @classmethod
    def _defenses(cls, value: object) -> object:
        if not isinstance(value, list):
            return value
        return tuple(_in_list(index, composed_from_yaml, entry) for index, entry in enumerate(value))

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.topology == "u_shaped" and self.tail is None:
            raise ValueError("a u_shaped block needs tail: the module that the client's last part starts with")
        if self.topology == "vanilla" and self.tail is not None:
            raise ValueError("a vanilla block has no tail; leave it out, or write topology: u_shaped")
        for index, attack in enumerate(self.attacks):
            for cut in attack.cuts or ():
                if cut not in self.cuts:
                    allowed = list(self.cuts)
                    raise ValueError(
                        f".attacks[{index}].cuts: {cut!r} is not among the block's cuts ({', '.join(allowed)})"
                        f"{nearest(cut, allowed)}"
                    )
        return self


class Suite(_Part):
    """A suite as its file says it.

    Attributes:
        name: Also the file's name.
        description: One sentence.
        watch: What of training is kept, for attacks of the training phase.
        targets: Of attacks of the inference phase.
        cell_limit: Seconds a cell may take.
        group_size: Cells that run as lanes of one program, at most.
        blocks: The matrix.
        digest: SHA-256 of what the file says, without comments and layout.
        folder: Where its relative paths start.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)
    description: str = ""
    watch: Watching = Watching()
    targets: Targets = Targets()
    cell_limit: float = Field(600.0, gt=0, allow_inf_nan=False)
    group_size: int = Field(8, ge=1)
    blocks: tuple[Block, ...] = Field(min_length=1)
    digest: str
    folder: Path

    @field_validator("name")
    @classmethod
    def _free(cls, value: str) -> str:
        # Some file systems do not tell small letters from capitals.
        if value.lower() in TAKEN or value.lower().startswith("store.sqlite"):
            raise ValueError(f"{value!r} is a name that the harness uses in its output folder; choose another name")
        return value


def _distinct(value: object) -> object:
    if not isinstance(value, list):
        return value
    twice = [item for index, item in enumerate(value) if item in value[:index]]
    if twice:
        raise ValueError(f"{twice[0]!r} is given twice; keep one")
    return tuple(value)


def _spec(value: object) -> Spec:
    try:
        return from_yaml(value)
    except UserError as error:
        raise ValueError(str(error)) from None


def _in_list(index: int, read: Any, value: object) -> Any:
    try:
        return read(value)
    except UserError as error:
        raise ValueError(f"[{index}]: {error}") from None
