"""The stored outcome of a cell. A record is plain JSON; this file says what it holds."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from pydantic import TypeAdapter

SCHEMA = 2
# Raise it when a change of the harness can change an outcome: every key changes with it.
RESULTS_VERSION = 2

# Files are named after keys.
_KEY = re.compile(r"[0-9A-Za-z_-]{1,128}")
_WHOLE = range(-(2**63), 2**63)
_EXACT = {"extra": "forbid", "allow_inf_nan": False}
Status = Literal["done", "failed", "skipped"]


@dataclass(frozen=True)
class Axes:
    """Where a cell stands in the matrix: every axis, as plain values.

    Attributes:
        dataset, model, topology: Names.
        cut: The cut asked for.
        cut_reached: The cut used (a defense may move it).
        tail: First module of the tail, or None.
        victim: `trained` or `untrained` (no epochs).
        defense: Names of the defenses joined by ` + `, or `none`.
        params: Their changed parameters, canonical, or an empty text.
        side: Families of the defenses joined by ` + `.
        seed: Victim seed.
        attack: The attack's name.
        attack_params: Its changed parameters, canonical.
        attack_seed: Seed of the attack's own draws.
        goals: What the attack answers.
        role: `attack` or `reference`.
        stance: `oblivious`, `aware` or `adaptive`.
        phase: `training` or `inference`.
        views: How often the server saw each target.
        threat_model: What the attacker was granted.
        targets: How the targets were chosen, canonical.
        precision: Number format of the attack, for example `fp32`.
    """

    __pydantic_config__: ClassVar = _EXACT

    dataset: str
    model: str
    topology: str
    cut: str
    cut_reached: str
    tail: str | None
    victim: str
    defense: str
    params: str
    side: str
    seed: int
    attack: str
    attack_params: str
    attack_seed: int
    goals: list[str]
    role: str
    stance: str
    phase: str
    views: int
    threat_model: str
    targets: str
    precision: str = "fp32"


@dataclass(frozen=True)
class Record:
    """One cell's outcome.

    Attributes:
        key: Content key of the cell (64 hex digits).
        suite, suite_digest: The suite it was run for, and the digest of its file.
        axes: Where it stands.
        status: `done`, `failed` (with `reason`, and `traceback` where it is ours or a plug-in's) or `skipped`.
        targets: `ids` of the targets in their source, their `digest` and `labels`; of their data set the
            `dataset_digest`, `image_shape`, `n_classes`, and a `note` on the copy where it is not the original one.
        per_image: Metric name -> one value a target: `ssim_raw`, `ssim_aligned`, `psnr_raw`, `psnr_aligned`,
            `mse_raw`, `mse_aligned`, `correlation`, `identified` (1, or a share where several candidates tie, or 0),
            `identification_rank` (of the truth, from 1), `recognised` (0 or 1), `correct` (labels; 0 or 1). All of the
            one checkpoint that is worst for the defense by aligned SSIM.
        controls: Control name -> metric name -> values: one a target for images (all metrics of `per_image`, each the
            mean over the control's draws); a single one for labels
            (`accuracy`) and stealing (`steal_accuracy`, `steal_agreement`).
        scalars: Single values: `label_accuracy`, `steal_accuracy`, `steal_agreement`, `identification_candidates`
            (images in a line-up), `identification_chance` (one over that), `recognition_of_truth` (share of the private
            images themselves that the independent classifier recognises), ...
        utility: `accuracy`, `majority`, `undefended_accuracy` (same seed); of trained victims `auxiliary_accuracy`.
        privacy: Claims, as stated by the defenses.
        reached: Numbers the defenses measured.
        evidence: What the harness found out about the defended client and the data, beside any attack; what flags that
            do not come from scores are computed from. See `benchmark.evidence`.
        cost: `bytes_up`, `bytes_down` per sample and step, `client_flops`, `client_params`,
            `training_seconds`, `time_ratio`.
        convergence: `trace`, `converged`, `steps`, `saved_steps`, `checkpoint`, `checkpoints`.
        run: `seconds`, `peak_memory`, `device`, `environment` (versions), `results` (the results version), `commit`,
            `plugins` (origin and digest),
            `planted` (what came of the attack's planted clients: `passed`, by goal in `goals`, the worst `client` with
            its `score` and `demand`, and the `attack` as it met them; None where nobody knows).
        flags: Raised by the run itself (the leaderboard adds those that need several records).
    """

    __pydantic_config__: ClassVar = _EXACT

    key: str
    suite: str
    suite_digest: str
    axes: Axes
    status: Status
    reason: str | None = None
    traceback: str | None = None
    targets: dict[str, Any] = field(default_factory=dict)
    per_image: dict[str, list[float]] = field(default_factory=dict)
    controls: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    scalars: dict[str, float] = field(default_factory=dict)
    utility: dict[str, float] = field(default_factory=dict)
    privacy: list[dict[str, Any]] = field(default_factory=list)
    reached: dict[str, float] = field(default_factory=dict)
    evidence: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    convergence: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    schema: int = SCHEMA

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Record:
        """The record that `to_json` wrote.

        Raises:
            ValueError: It was written by a newer program, or is no record: a field is missing, unknown or of another
                type, a number is not finite, a key is none.
        """
        if not isinstance(value, dict):
            raise ValueError(f"not a record of schema {SCHEMA}: {type(value).__name__} instead of fields")
        run = value.get("run")
        _not_newer("record schema", value.get("schema"), SCHEMA)
        _not_newer("results version", run.get("results") if isinstance(run, dict) else None, RESULTS_VERSION)
        try:
            # What stands in fields of any shape must at least be JSON that can be written again.
            text = json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
            _typed().validate_json(text, strict=True)
            record = cls(**{**value, "axes": Axes(**value["axes"])})
        except (TypeError, KeyError, ValueError, RecursionError) as error:
            raise ValueError(f"not a record of schema {SCHEMA}: {_said(error)}") from None
        if not _KEY.fullmatch(record.key):
            raise ValueError(f"not a record of schema {SCHEMA}: {record.key[:80]!r} is no key")
        for name, number in vars(record.axes).items():
            if isinstance(number, int) and number not in _WHOLE:
                raise ValueError(f"not a record of schema {SCHEMA}: axes.{name} has more than 64 bits")
        return record


def read_record(text: str) -> Record:
    """The record that a JSON text holds.

    Raises:
        ValueError: It is not JSON, or as `Record.from_json`.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("its JSON is nested too deep") from None
    return Record.from_json(value)


def _not_newer(what: str, version: object, ours: int) -> None:
    if isinstance(version, int) and version > ours:
        raise ValueError(f"{what} {version} is newer than {ours}; upgrade unsplit-bench")


def _said(error: Exception) -> str:
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return " ".join(str(error).split())


@cache
def _typed() -> TypeAdapter[Record]:
    # Imported late: results are printed without a validator, too.
    from pydantic import TypeAdapter

    return TypeAdapter(Record)
