"""The lines on whole suites: what one more defense strength costs, and what scoring, store and report take."""

from __future__ import annotations

from collections.abc import Sequence

from benchmark.released import read_released
from benchmark.spec import parse_composed
from benchmark.speed.line import BY_NAME, Measured, Spread, short
from benchmark.speed.processes import Contestant, Turn, race_turns
from benchmark.speed.setting import Setting
from benchmark.speed.suite_runs import SuiteRuns
from benchmark.suite import load_suite
from benchmark.suite_format import Suite

SUITE = "smoke-v1"
# A block of the suite that has a defense in several strengths, one of them, and as many more as a group of cells holds:
# a group is a program of its own, and of two strengths the second joins the group that the first one opens.
BLOCK = "smashed data"
STRENGTHS = ("gaussian_noise:relative=0.5",)
MORE = ("gaussian_noise:relative=2.0", "gaussian_noise:relative=1.0")
# Suites take long: this often at most.
_REPEATS = 2


def strength(setting: Setting) -> list[Measured]:
    """The line `strength`."""
    suites = {"with one": with_strengths(STRENGTHS), "with more": with_strengths((*STRENGTHS, *MORE))}
    # Side by side where there are cores, so that what else the machine does meets both alike.
    together = setting.workers > 1
    runs = {title: Contestant(title, SuiteRuns(suite, str(setting.cache))) for title, suite in suites.items()}
    teams = {"both": list(runs.values())} if together else {title: [run] for title, run in runs.items()}
    turns = race_turns(teams, min(setting.repeats, _REPEATS), warm_up=False)
    before, after = zip(*turns["both"], strict=True) if together else ([t for (t,) in turns[title]] for title in suites)
    added = [b.work - a.work for a, b in zip(before, after, strict=True)]
    ratios = [of_share(a, b) for a, b in zip(before, after, strict=True)]
    cells, more = before[0].facts["cells"], after[0].facts["cells"]
    facts = [
        f"Block `{BLOCK}` of `{SUITE}` at its first cut, with `{'`, `'.join(STRENGTHS)}` {cells} cells in "
        f"{_seconds([a.work for a in before])} CPU seconds; `{'` and `'.join(MORE)}` add {more - cells} cells and "
        f"{_seconds(added)} CPU seconds, of which half is told: a group of cells holds two strengths at two seeds.",
        *_in_release(),
    ]
    return [Measured(BY_NAME["strength"], Spread.of(ratios), tuple(facts))]


def share(setting: Setting) -> list[Measured]:
    """The line `share`."""
    suite = load_suite(SUITE)
    runs = [Contestant(suite.name, SuiteRuns(suite, str(setting.cache))) for _ in range(min(setting.workers, 2))]
    ((together,),) = race_turns({"suite": runs}, 1, warm_up=False).values()
    spread = Spread.of([100 * turn.facts["scored"] for turn in together])
    before = _seconds([100 * turn.facts["observed"] for turn in together])
    fact = (
        f"The whole of `{SUITE}`: {together[0].facts['cells']} cells, "
        f"{_seconds([turn.seconds for turn in together])} s; measured {spread.n} times, at once. What is done before "
        f"an attack starts (victims read from the cache, views, evidence on the client) takes another {before} %; "
        "training and attacks take the rest."
    )
    return [Measured(BY_NAME["share"], spread, (fact,))]


def with_strengths(strengths: Sequence[str]) -> Suite:
    """The suite's block at its first cut, with these strengths alone."""
    suite = load_suite(SUITE)
    (block,) = (block for block in suite.blocks if block.name == BLOCK)
    defenses = tuple(parse_composed(text) for text in strengths)
    reduced = block.model_copy(update={"cuts": block.cuts[:1], "defenses": defenses})
    return suite.model_copy(update={"name": f"{SUITE}-block", "blocks": (reduced,)})


def of_share(before: Turn, after: Turn) -> float:
    """What was added to the work, as a share of it all, over what was added to the cells, as a share of them all."""
    cells = after.facts["cells"]
    added: float = (cells - before.facts["cells"]) / cells
    return (after.work - before.work) / after.work / added


def _in_release() -> list[str]:
    """What the strengths that there are take in the released records, against all cells of the suite."""
    records = list(read_released(SUITE).values())
    name = MORE[0].partition(":")[0]
    mine = [record for record in records if record.axes.defense == name]
    seconds = sum(record.run["seconds"] for record in records)
    if not mine or not seconds:
        return []
    taken = sum(record.run["seconds"] for record in mine) / seconds
    return [
        f"In the released records of the whole suite `{name}` has {short(100 * len(mine) / len(records))} % of the "
        f"cells and {short(100 * taken)} % of the attacks' time: cells of other blocks, where labels are attacked, "
        "take hardly any, so only cells under the same attacks are compared above."
    ]


def _seconds(values: Sequence[float]) -> str:
    return short(Spread.of(values).middle)
