from pathlib import Path

import pytest

from benchmark import registry
from benchmark.cell import Plan, TargetRule
from benchmark.data import Facts
from benchmark.errors import DataMissingError, UserError
from benchmark.plan import plan
from benchmark.suite import Suite, read_suite

DEFENSES = '''
from typing import ClassVar
from pydantic import Field
from defenses.base import Defense

class Scaled(Defense):
    """Scales. Own work."""
    name: ClassVar[str] = "scaled"
    side: ClassVar[str] = "activations"
    strength: float = Field(1.0, gt=0, description="factor")
    def protect_activations(self, z, rng, phase):
        return z * self.strength

class Moved(Defense):
    """Cuts as deep as it can. Own work."""
    name: ClassVar[str] = "moved"
    side: ClassVar[str] = "architecture"
    to: str = Field("pool2", description="where to")
    def moved_cut(self, cut, cuts):
        return self.to

class Relabelled(Defense):
    """Keeps labels. Own work."""
    name: ClassVar[str] = "relabelled"
    side: ClassVar[str] = "labels"
'''

ATTACKS = '''
from typing import ClassVar
from pydantic import Field
from attacks.base import Attack, Finding
from benchmark.view import Knowledge

class Blank(Attack):
    """Finds nothing but grey. Own work."""
    name: ClassVar[str] = "blank"
    goals: ClassVar[tuple[str, ...]] = ("reconstruct",)
    grey: float = Field(0.5, description="of every pixel")
    def knowledge(self):
        return frozenset({Knowledge.ARCHITECTURE, Knowledge.AUXILIARY})
    def run(self, views, budget, progress):
        return [Finding(reconstructions=v.smashed.new_full((1, v.n, *v.image_shape), self.grey)) for v in views]

class Asked(Blank):
    """Wants labels of a class. Own work."""
    name: ClassVar[str] = "asked"
    goals: ClassVar[tuple[str, ...]] = ("infer_labels",)
    phases: ClassVar[tuple[str, ...]] = ("training",)
    topologies: ClassVar[tuple[str, ...]] = ("u_shaped",)
    k: int = Field(1, ge=1, description="labels a class")
    def knowledge(self):
        return frozenset({Knowledge.ARCHITECTURE, Knowledge.KNOWN_LABELS})
    def known_labels_per_class(self):
        return self.k
'''

SUITE = """\
name: little
dataset: mnist-5k
model: mnist_net
seeds: [0, 1]
training: {epochs: 2}
watch: {targets: {how: per_class, n: 2}, known_per_class: 1}
group_size: 3
blocks:
  - name: inputs
    cuts: [pool1, pool2]
    defenses: [none, "./d.py:Scaled:strength=2", "./d.py:Scaled:strength=3"]
    attacks: ["./a.py:Blank"]
  - name: labels
    topology: u_shaped
    tail: fc3
    cuts: [pool1]
    defenses: [none, "./d.py:Relabelled"]
    attacks: [{attack: "./a.py:Asked", phase: training}, {attack: "./a.py:Blank", cuts: [pool1], defenses: none}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "d.py").write_text(DEFENSES)
    (tmp_path / "a.py").write_text(ATTACKS)
    return tmp_path


def suite(folder: Path, text: str = SUITE) -> Suite:
    return read_suite(text, folder / "little.yaml")


def described(plan: Plan, *axes: str) -> list[tuple[object, ...]]:
    return [tuple(getattr(cell.axes(), axis) for axis in axes) for cell in plan.cells]


def test_every_defense_meets_every_attack_at_every_cut_and_seed(folder: Path) -> None:
    made = plan(suite(folder))
    inputs = [
        row for row in described(made, "topology", "defense", "params", "cut", "seed", "attack") if row[0] == "vanilla"
    ]
    assert len(inputs) == len(set(inputs)) == 3 * 2 * 2
    assert ("vanilla", "scaled", "strength=3.0", "pool2", 1, "blank") in inputs


def test_an_attack_may_be_kept_to_undefended_victims(folder: Path) -> None:
    rows = described(plan(suite(folder)), "topology", "attack", "defense")
    assert {row[2] for row in rows if row[:2] == ("u_shaped", "blank")} == {"none"}


def test_the_axes_come_from_the_plugins(folder: Path) -> None:
    [cell] = [c for c in plan(suite(folder)).cells if c.side == "labels" and c.victim.seed == 0]
    assert (cell.goals, cell.threat_model, cell.role) == (("infer_labels",), "architecture+k labels", "attack")
    assert (cell.phase, cell.views, cell.targets) == ("training", 2, TargetRule("per_class", 2))


def test_only_victims_that_training_attacks_meet_are_watched(folder: Path) -> None:
    watched = {(cell.victim.topology, cell.victim.watch is not None) for cell in plan(suite(folder)).cells}
    assert watched == {("vanilla", False), ("u_shaped", True)}


FROZEN = SUITE.replace(
    "    tail: fc3\n",
    "    tail: fc3\n    training: {epochs: 0}\n"
    "    watch: {targets: {how: per_class, n: 4}, known_per_class: 1, batch_size: 1}\n",
).replace('[none, "./d.py:Relabelled"]', "[none]")


def test_an_untrained_victim_can_be_watched_in_a_frozen_pass(folder: Path) -> None:
    found = [cell for cell in plan(suite(folder, FROZEN)).cells if cell.phase == "training"]
    assert [(cell.victim.epochs, cell.views, cell.targets.n, cell.axes().victim) for cell in found] == [
        (0, 1, 4, "untrained")
    ] * 2


def test_a_frozen_pass_is_no_place_for_a_defense(folder: Path) -> None:
    with pytest.raises(UserError, match=r"relabelled acts in training, but watch\.batch_size shows"):
        plan(suite(folder, FROZEN.replace("    defenses: [none]\n", '    defenses: [none, "./d.py:Relabelled"]\n')))


def test_an_attacker_may_assume_another_architecture_in_a_threat_model_of_its_own(folder: Path) -> None:
    made = plan(suite(folder, SUITE.replace('["./a.py:Blank"]', '[{attack: "./a.py:Blank", assumes: mnist_net_4x4}]')))
    found = [cell for cell in made.cells if cell.victim.topology == "vanilla"]
    assert {cell.threat_model for cell in found} == {"architecture of mnist_net_4x4+auxiliary"}
    assert {(cell.victim.model.name, cell.assumed and cell.assumed.name) for cell in found} == {
        ("mnist_net", "mnist_net_4x4")
    }


def test_a_group_holds_cells_of_one_shape_and_at_most_its_size(folder: Path) -> None:
    made = plan(suite(folder))
    for group in made.groups:
        shapes = {
            (c.attack.name, c.phase, c.victim.topology, c.victim.cut_reached, tuple(d.name for d in c.victim.defenses))
            for c in group.cells
        }
        assert len(shapes) == 1
    sizes = [len(g.cells) for g in made.groups if g.cells[0].victim.defenses and g.cells[0].victim.cut == "pool2"]
    # Two strengths at two seeds are of one shape: three lanes and one.
    assert sizes == [3, 1]


def test_the_plan_is_the_same_every_time(folder: Path) -> None:
    first, second = plan(suite(folder)), plan(suite(folder))
    assert [g.key() for g in first.groups] == [g.key() for g in second.groups]


def test_a_cell_that_two_blocks_ask_for_is_run_once(folder: Path) -> None:
    again = SUITE + '  - name: again\n    cuts: [pool1]\n    defenses: [none]\n    attacks: ["./a.py:Blank"]\n'
    assert len(plan(suite(folder, again)).cells) == len(plan(suite(folder)).cells)


def test_none_beside_another_defense_adds_nothing(folder: Path) -> None:
    composed = SUITE.replace('"./d.py:Scaled:strength=3"', '[none, "./d.py:Scaled:strength=2"]')
    assert len(plan(suite(folder, composed)).cells) == len(plan(suite(folder)).cells) - 4


def test_a_defense_that_moves_the_cut_says_where_to_and_keeps_the_cut_asked_for(folder: Path) -> None:
    moved = SUITE.replace("./d.py:Scaled:strength=3", "./d.py:Moved")
    rows = {
        row[1:] for row in described(plan(suite(folder, moved)), "defense", "cut", "cut_reached") if row[0] == "moved"
    }
    assert rows == {("pool1", "pool2"), ("pool2", "pool2")}


def test_composed_defenses_show_both_names_and_sides(folder: Path) -> None:
    composed = SUITE.replace('"./d.py:Scaled:strength=3"', '["./d.py:Scaled", "./d.py:Moved"]')
    assert ("scaled + moved", "activations + architecture") in described(
        plan(suite(folder, composed)), "defense", "side"
    )


def test_a_defense_from_outside_adds_groups_and_leaves_the_suites_own_alone(folder: Path) -> None:
    own = plan(suite(folder))
    extra = registry.reference("defense", "d.py:Scaled:strength=9", folder)
    more = plan(suite(folder), extra_defenses=[[extra]])
    assert [g.key() for g in more.groups[: len(own.groups)]] == [g.key() for g in own.groups]
    added = more.groups[len(own.groups) :]
    assert all(c.victim.defenses == (extra,) for g in added for c in g.cells)
    # Two cuts and two seeds against one attack, and the labels block against its attack that meets all defenses.
    assert sum(len(g.cells) for g in added) == 4 + 2


def test_a_label_defense_from_outside_joins_only_the_u_shaped_blocks(folder: Path) -> None:
    labelled = SUITE.replace(', "./d.py:Relabelled"', "")
    extra = registry.reference("defense", "d.py:Relabelled", folder)
    own, more = plan(suite(folder, labelled)), plan(suite(folder, labelled), extra_defenses=[[extra]])
    assert {cell.victim.topology for cell in more.cells[len(own.cells) :]} == {"u_shaped"}


def test_an_attack_from_outside_meets_all_defenses_on_the_suites_own_victims(folder: Path) -> None:
    own = plan(suite(folder))
    extra = registry.reference("attack", "a.py:Blank:grey=0.1", folder)
    more = plan(suite(folder), extra_attacks=[extra])
    added = more.cells[len(own.cells) :]
    assert {cell.attack.changed for cell in added} == {"grey=0.1"}
    assert {cell.victim.key() for cell in added} == {cell.victim.key() for cell in own.cells}
    assert {(c.victim.topology, c.phase) for c in added} == {
        ("vanilla", "inference"),
        ("u_shaped", "inference"),
        ("u_shaped", "training"),
    }


def test_what_no_block_can_take_is_refused(folder: Path) -> None:
    only_inputs = SUITE[: SUITE.index("  - name: labels")]
    for kind, extras in (("defense", "extra_defenses"), ("attack", "extra_attacks")):
        name = {"defense": "d.py:Relabelled", "attack": "a.py:Asked"}[kind]
        ref = registry.reference(kind, name, folder)
        with pytest.raises(UserError, match=rf"--{kind} {ref.name}: no block of suite little can take it"):
            plan(suite(folder, only_inputs), **{extras: [[ref]] if kind == "defense" else [ref]})


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("strength=2", "strength=-2", "suite little, block 'inputs': scaled: parameter strength=-2"),
        ("./d.py:Scaled:strength=2", "scald", "block 'inputs': there is no defense 'scald'"),
        ("./a.py:Blank", "./a.py:Blink", "block 'inputs': attack .*defines no 'Blink'"),
        (
            "./d.py:Scaled:strength=2",
            "./d.py:Relabelled",
            "block 'inputs': defense relabelled protects labels, but in the va",
        ),
        ("cuts: [pool1, pool2]", "cuts: [pool3]", r"block 'inputs', model mnist_net, cut 'pool3': .*conv1, relu1"),
        ("tail: fc3", "tail: pool1", r"cut 'pool1': tail 'pool1' leaves the server nothing"),
        ("./d.py:Relabelled", "./d.py:Moved:to=fc3", "cut 'pool1', defense moved:to=fc3: cut 'fc3' does not exist"),
        ("mnist_net", "mnist_ned", "block 'inputs': there is no model 'mnist_ned'.*did you mean 'mnist_net'"),
        ("dataset: mnist-5k", "dataset: mnist-6k", "data set 'mnist-6k' does not exist"),
        ("./a.py:Blank", "./a.py:Asked", "block 'inputs', attack asked: works only in topology u_shaped, not vanilla"),
        (
            'Asked", phase: training',
            'Asked", phase: inference',
            "attack asked: works only in phase training, not inference",
        ),
        (
            "known_per_class: 1",
            "known_per_class: 0",
            "attack asked: wants 1 known labels a class, but the suite's watch keeps 0",
        ),
        ("epochs: 2", "epochs: 0", "attack asked: phase training needs epochs"),
        (
            '["./a.py:Blank"]',
            "[{attack: known_client, assumes: mnist_net_4x4}]",
            "attack known_client: is granted the client's own weights or their gradients; leave assumes: mnist_net_4x4",
        ),
        (
            '["./a.py:Blank"]',
            '[{attack: "./a.py:Blank", assumes: mnist_nett}]',
            "block 'inputs': there is no model 'mnist_nett'.*did you mean 'mnist_net'",
        ),
        (
            "phase: training",
            "phase: training, views: 3",
            "attack asked: wants the latest 3 epochs, but training has only 2",
        ),
        (
            "phase: training",
            "phase: training, targets: {how: per_class, n: 3}",
            r"attack asked: its targets \(per_class:n=3\) are not among the watched \(per_class:n=2\)",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_block_and_plugin(folder: Path, old: str, new: str, words: str) -> None:
    assert old in SUITE
    with pytest.raises(UserError, match=words):
        plan(suite(folder, SUITE.replace(old, new, 1)))


def test_a_suite_that_expands_to_nothing_is_refused(folder: Path) -> None:
    nothing = (
        SUITE[: SUITE.index("  - name: labels")]
        .replace(
            'defenses: [none, "./d.py:Scaled:strength=2", "./d.py:Scaled:strength=3"]', 'defenses: ["./d.py:Scaled"]'
        )
        .replace('attacks: ["./a.py:Blank"]', 'attacks: [{attack: "./a.py:Blank", defenses: none}]')
    )
    with pytest.raises(UserError, match="asks for nothing"):
        plan(suite(folder, nothing))


ELSEWHERE = """\
name: elsewhere
dataset: mnist
model: mnist_net
seeds: [0]
blocks:
  - {name: inputs, cuts: [pool1], defenses: [none], attacks: [known_client]}
"""


def test_results_are_planned_from_their_records_where_the_data_are_not(tmp_path: Path) -> None:
    suite = read_suite(ELSEWHERE, tmp_path / "elsewhere.yaml")
    recorded = {"mnist": Facts("mnist", "d" * 64, (1, 28, 28), 10)}
    (cell,) = plan(suite, data_root=tmp_path, recorded=recorded).cells
    assert cell.victim.dataset_digest == "d" * 64


SEVERAL = """\
name: several
seeds: [0]
blocks:
  - name: inputs
    datasets: [mnist, fashion-mnist, cifar10]
    model: mnist_net
    cuts: [pool1]
    defenses: [none]
    attacks: [unsplit, "inverse_decoder:stance=oblivious"]
"""


def test_only_who_is_given_nothing_of_the_data_is_run_on_several_data_sets_of_one_shape_at_once(tmp_path: Path) -> None:
    shapes = {"mnist": (1, 28, 28), "fashion-mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
    recorded = {name: Facts(name, "d" * 64, shape, 10) for name, shape in shapes.items()}
    made = plan(read_suite(SEVERAL, tmp_path / "several.yaml"), data_root=tmp_path, recorded=recorded)
    found = {(group.cells[0].attack.name, *(cell.victim.dataset for cell in group.cells)) for group in made.groups}
    assert found == {
        ("unsplit", "mnist", "fashion-mnist"),
        ("unsplit", "cifar10"),
        *(("inverse_decoder", name) for name in shapes),
    }


def test_without_data_and_without_records_there_is_no_plan(tmp_path: Path) -> None:
    suite = read_suite(ELSEWHERE, tmp_path / "elsewhere.yaml")
    with pytest.raises(DataMissingError, match="--download"):
        plan(suite, data_root=tmp_path)
