"""Lines on image-steps per second: attacks on all cores beside a loop of batch one, and lanes beside fewer lanes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmark import registry
from benchmark.executors.cores import cores
from benchmark.speed.attack_turns import AttackTurns
from benchmark.speed.convolutions import Convolutions
from benchmark.speed.line import BY_NAME, Measured, Spread, short
from benchmark.speed.operations import MatrixProducts, operations
from benchmark.speed.plain_loop import PlainTurns
from benchmark.speed.processes import Contestant, race, result_of
from benchmark.speed.published import PublishedTurns
from benchmark.speed.scene import COLOUR, Scene
from benchmark.speed.scored import Scored
from benchmark.speed.setting import Setting

# The code preset: 1000 rounds of 100 + 100 steps, a clone for each target.
ATTACK = "unsplit"
PER_TARGET = f"{ATTACK}:clone=per_target"
STEPS = 200_000
SHAPES = {"mnist_net": (1, 28, 28), "cifar_net": (3, 32, 32)}
CUT = "pool1"
# Rounds after which the scores of two precisions are put side by side.
_SCORED_ROUNDS = 4
# Targets of the scene of pictures, two of each of its classes.
_PICTURES = 10


def mnist(setting: Setting) -> list[Measured]:
    """The line `mnist`."""
    return _against_loop(setting, "mnist_net", {"mnist": ("float32", PER_TARGET)})


def cifar(setting: Setting, wanted: Sequence[str] = ("cifar", "cifar-bfloat16")) -> list[Measured]:
    """The lines `cifar` and `cifar-bfloat16`, or those of them that are wanted."""
    specs = {"cifar": ("float32", PER_TARGET), "cifar-bfloat16": ("bfloat16", f"{PER_TARGET},precision=bfloat16")}
    chosen = {name: spec for name, spec in specs.items() if name in wanted}
    missing: list[Measured] = []
    if "precision" not in registry.plugin("attack", ATTACK).model_fields and "cifar-bfloat16" in chosen:
        del chosen["cifar-bfloat16"]
        missing = [Measured(BY_NAME["cifar-bfloat16"], None, ("Not in this version.",))]
    found = _against_loop(setting, "cifar_net", chosen) if chosen else []
    if "cifar-bfloat16" in chosen:
        found[-1] = Measured(found[-1].line, found[-1].spread, (*found[-1].facts, _equal_scores(setting)))
    return found + missing


def lanes(setting: Setting) -> list[Measured]:
    """The line `lanes`."""
    teams = {
        n: [Contestant(f"{n} lanes", AttackTurns(PER_TARGET, STEPS, _digits(setting, n // 10, 0)), 1, setting.turn)]
        for n in (40, 10)
    }
    rates = race({str(n): team for n, team in teams.items()}, setting.repeats)
    ratios = [few / many for few, many in zip(rates["10"], rates["40"], strict=True)]
    facts = [f"{n} lanes: {_per_step(Spread.of(rates[n]))}." for n in ("10", "40")]
    return [Measured(BY_NAME["lanes"], Spread.of(ratios), tuple(facts))]


def loop_seconds(setting: Setting, model: str) -> float:
    """Seconds that a step of the loop compared with takes at its fastest; measured now if no line has done so."""
    if model not in setting.step_seconds:
        teams = _loops(setting, model)
        _remember(setting, model, race(teams, setting.repeats))
    return setting.step_seconds[model]


def _against_loop(setting: Setting, model: str, specs: Mapping[str, tuple[str, str]]) -> list[Measured]:
    loops = _loops(setting, model)
    attacks = {name: _attackers(setting, model, spec) for name, (_, spec) in specs.items()}
    floors = {
        f"product {precision}": [
            Contestant("matrix products", MatrixProducts(precision), 1, setting.turn / 2)
            for _ in range(setting.workers)
        ]
        for precision, _ in specs.values()
    }
    # In float32 the engine multiplies less than the library would.
    rounded = any(precision == "bfloat16" for precision, _ in specs.values())
    alone = [
        Contestant("convolutions", Convolutions(model, CUT, SHAPES[model], _PICTURES), 1, setting.turn / 2)
        for _ in range(setting.workers if rounded else 0)
    ]
    rates = race({**attacks, **loops, **floors, **({"convolutions": alone} if rounded else {})}, setting.repeats)
    best = _remember(setting, model, {name: rates[name] for name in loops})
    found = []
    for name, (precision, _) in specs.items():
        ratios = [ours / theirs for ours, theirs in zip(rates[name], rates[best], strict=True)]
        own = Spread.of(rates[name])
        facts = [
            f"{setting.workers} process{'es' * (setting.workers > 1)}, each with one thread, a victim and targets of "
            f"its own: {_per_step(own)}.",
            *(f"{title}: {_per_step(Spread.of(rates[title]))}." for title in loops),
            f"A process that is {short(Spread.of(ratios).middle / setting.workers)}x: what is left where as many loops "
            "run side by side.",
            _reached(model, precision, own, Spread.of(rates[f"product {precision}"])),
        ]
        if precision == "bfloat16":
            facts.append(_bound(rates["convolutions"], rates[best]))
        found.append(Measured(BY_NAME[name], Spread.of(ratios), tuple(facts)))
    return found


def _loops(setting: Setting, model: str) -> dict[str, list[Contestant]]:
    shape = SHAPES[model]
    program = (
        PlainTurns(model, CUT, shape)
        if setting.reference is None
        else PublishedTurns(str(setting.reference.absolute()), model, CUT, shape)
    )
    found = {}
    for threads in (1, 2) if cores() > 1 else (1,):
        title = f"{setting.loop.capitalize()}, {threads} thread{'s' * (threads > 1)}"
        found[title] = [Contestant(title, program, threads, setting.turn)]
    return found


def _remember(setting: Setting, model: str, rates: Mapping[str, Sequence[float]]) -> str:
    """The title of the fastest; its time a step is kept."""
    best = max(rates, key=lambda title: Spread.of(rates[title]).middle)
    setting.step_seconds[model] = 1 / Spread.of(rates[best]).middle
    return best


def _attackers(setting: Setting, model: str, spec: str) -> list[Contestant]:
    scenes = [
        _digits(setting, 4, seed) if model == "mnist_net" else _pictures(setting, seed)
        for seed in range(setting.workers)
    ]
    return [Contestant(spec, AttackTurns(spec, STEPS, scene), 1, setting.turn) for scene in scenes]


def _digits(setting: Setting, per_class: int, seed: int) -> Scene:
    return Scene("mnist-5k", "mnist_net", CUT, per_class, str(setting.cache / "untrained"), seed=seed)


def _pictures(setting: Setting, seed: int) -> Scene:
    return Scene(COLOUR, "cifar_net", CUT, 2, str(setting.cache / "untrained"), seed=seed)


def _per_step(rates: Spread) -> str:
    a_second = f"{rates.middle:,.0f}".replace(",", " ")
    return f"{a_second} image-steps a second, {short(1e3 / rates.middle)} ms each"


def _reached(model: str, precision: str, rates: Spread, products: Spread) -> str:
    counted = operations(model, CUT, SHAPES[model])
    return (
        f"A step on one image is {short(counted.image_step / 1e6)} million operations (image) or "
        f"{short(counted.model_step / 1e6)} million (model), so this is {short(rates.middle * counted.mean / 1e9)} "
        f"GFLOP/s: {short(100 * rates.middle * counted.mean / products.middle)} % of the "
        f"{short(products.middle / 1e9)} that the same processes reach in {precision} products of 2048 x 2048 matrices."
    )


def _bound(alone: Sequence[float], loop: Sequence[float]) -> str:
    ratios = Spread.of([ours / theirs for ours, theirs in zip(alone, loop, strict=True)])
    return (
        "The library's convolutions of these steps alone, with nothing between them, no optimiser and no pooling: "
        f"{_per_step(Spread.of(alone))}; held against the same, {short(ratios.middle)}x ({short(ratios.low)} to "
        f"{short(ratios.high)})."
    )


def _equal_scores(setting: Setting) -> str:
    spec = f"{PER_TARGET},rounds={_SCORED_ROUNDS}"
    single, half = (
        result_of("scores of two precisions", Scored(text, _pictures(setting, 0)))[-1]
        for text in (spec, f"{spec},precision=bfloat16")
    )
    return f"Mean aligned SSIM after {_SCORED_ROUNDS} rounds: {single:.3f} in float32, {half:.3f} in bfloat16."
