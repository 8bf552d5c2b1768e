from pathlib import Path

import pytest

from benchmark.cell import TargetRule, Watch
from benchmark.errors import UserError
from benchmark.spec import Spec
from benchmark.suite import load_suite, read_suite, suite_files

TEXT = """\
name: little
description: Of two blocks.
dataset: mnist-5k
model: mnist_net
seeds: [0, 1]
training: {epochs: 5, batch_size: 64, learning_rate: 1e-3}
watch: {targets: {how: per_class, n: 20}, known_per_class: 5}
targets: {how: first_of_class}
cell_limit: 600
group_size: 8
blocks:
  - name: activations
    cuts: [pool1, pool2]
    defenses: [none, "gaussian_noise:relative=0.5", {dp_sgd: {scope: joint}}, ["a", "b:x=1"], "c+d"]
    attacks:
      - "unsplit:clone=joint"
      - unsplit: {restarts: 8}
      - {attack: known_client, phase: training, views: 2, seeds: [3], targets: {how: per_class, n: 2}, cuts: [pool1]}
  - topology: u_shaped
    tail: fc3
    cuts: [pool1]
    defenses: [none]
    attacks: [label_matching]
    models: [mnist_net, ./nets.py:other]
    seeds: [7]
    training: {epochs: 0}
"""


def read(text: str = TEXT):
    return read_suite(text, Path("suites/little.yaml"))


def test_a_block_takes_from_the_top_what_it_does_not_say_itself() -> None:
    first, second = read().blocks
    assert (first.datasets, first.models, first.seeds, first.training.epochs) == (
        ("mnist-5k",),
        ("mnist_net",),
        (0, 1),
        5,
    )
    assert (second.datasets, second.models, second.seeds, second.training.epochs) == (
        ("mnist-5k",),
        ("mnist_net", "./nets.py:other"),
        (7,),
        0,
    )


def test_defenses_are_texts_mappings_or_compositions() -> None:
    assert read().blocks[0].defenses == (
        (Spec("none"),),
        (Spec("gaussian_noise", {"relative": 0.5}),),
        (Spec("dp_sgd", {"scope": "joint"}),),
        (Spec("a"), Spec("b", {"x": 1})),
        (Spec("c"), Spec("d")),
    )


def test_attacks_are_texts_mappings_or_entries_with_options() -> None:
    short, mapping, entry = read().blocks[0].attacks
    assert (short.attack, short.phase, short.seeds) == (Spec("unsplit", {"clone": "joint"}), "inference", (0,))
    assert mapping.attack == Spec("unsplit", {"restarts": 8})
    assert (entry.phase, entry.views, entry.seeds, entry.cuts) == ("training", 2, (3,), ("pool1",))
    assert entry.targets is not None
    assert entry.targets.rule() == TargetRule("per_class", 2)


def test_the_watch_is_what_the_plan_needs() -> None:
    assert read().watch.watch() == Watch(TargetRule("per_class", 20), 5)


def test_numbers_may_be_written_with_an_exponent() -> None:
    assert read().blocks[0].training.learning_rate == 0.001


def test_the_digest_ignores_comments_order_and_layout_and_nothing_else() -> None:
    digest = read().digest
    moved = TEXT.replace("dataset: mnist-5k\n", "", 1).replace(
        "seeds: [0, 1]", "seeds:\n- 0\n- 1 # two\ndataset: mnist-5k"
    )
    assert read(moved).digest == digest
    assert read(TEXT.replace("n: 20", "n: 21")).digest != digest
    assert read(TEXT.replace("[0, 1]", "[1, 0]")).digest != digest


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("cuts: [pool1, pool2]", "cuts: [pool1, 2]", "blocks[0].cuts[1]: should be a valid string, not 2"),
        (
            "tail: fc3",
            "tayl: fc3",
            "blocks[1].tayl: there is no such key; did you mean 'tail'?; allowed are: attacks, cuts",
        ),
        ("epochs: 5", "epoch: 5", "little.yaml: training.epoch: there is no such key; did you mean 'epochs'?"),
        ("epochs: 5", "epochs: five", "training.epochs: should be a valid integer, not 'five'"),
        ("training: {epochs: 5, batch_size: 64, learning_rate: 1e-3}", "training: 5", "training: should be a mapping"),
        ("epochs: 5", "epochs: true", "training.epochs: should be a valid integer, not True"),
        ("epochs: 5", "epochs: -1", "training.epochs: should be greater than or equal to 0, not -1"),
        ("epochs: 0", "epochs: 0.5", "blocks[1].training.epochs: should be a valid integer, not 0.5"),
        ("first_of_class", "first", "targets.how: should be 'first_of_class', 'per_class' or 'drawn', not 'first'"),
        ("{how: first_of_class}", "{n: 3}", "targets: first_of_class takes one sample a class; write how: per_class"),
        ("{how: first_of_class}", "{seed: 3}", "targets: a seed draws nothing here"),
        ("dataset: mnist-5k\n", "", "blocks[0].datasets: is missing; write it there or at the top"),
        ("dataset: mnist-5k\n", "dataset: a\ndatasets: [b]\n", "gives both dataset and datasets; keep one"),
        ("views: 2", "views: 0", "blocks[0].attacks[2].views: should be greater than or equal to 1, not 0"),
        (
            "cuts: [pool1]}",
            "cuts: [pol2]}",
            "blocks[0].attacks[2].cuts: 'pol2' is not among the block's cuts (pool1, pool2)",
        ),
        (
            "phase: training",
            "phase: late",
            "blocks[0].attacks[2].phase: should be 'inference' or 'training', not 'late'",
        ),
        ('["a", "b:x=1"]', "[]", "blocks[0].defenses[3]: an empty list composes nothing"),
        ("{dp_sgd: {scope: joint}}", "{dp_sgd: 3}", "blocks[0].defenses[2]: {'dp_sgd': 3} names no plug-in"),
        ("[label_matching]", "['x:y']", "blocks[1].attacks[0].attack: 'x:y': 'y' is not key=value"),
        ("[label_matching]", "label_matching", "blocks[1].attacks: should be a list, not 'label_matching'"),
        ("[label_matching]", "[]", "blocks[1].attacks: is an empty list; write at least one item"),
        ("seeds: [0, 1]", "seeds: [0, 0]", "little.yaml: seeds: 0 is given twice; keep one"),
        ("seeds: [0, 1]", "seeds: [-1]", "seeds[0]: should be greater than or equal to 0, not -1"),
        ("topology: u_shaped", "topology: vanilla", "blocks[1]: a vanilla block has no tail"),
        ("    tail: fc3\n", "", "blocks[1]: a u_shaped block needs tail"),
        ("name: little", "name: 3", "name: should be a valid string, not 3"),
        ("name: little", "name: ../up", "name: String should match pattern"),
        ("name: little", 'name: "a\\0b"', "name: String should match pattern"),
        ("name: little", "name: /etc", "name: String should match pattern"),
        ("name: little", "name: ..", "name: String should match pattern"),
        ("name: little", 'name: "a\\n"', "name: String should match pattern"),
        ("name: little", f"name: {'a' * 101}", "name: String should have at most 100 characters"),
        ("name: little", "name: Victims", "name: 'Victims' is a name that the harness uses in its output folder"),
        ("name: little", "name: store.sqlite-wal", "is a name that the harness uses in its output folder"),
        ("description:", "1:", "key 1 is not a text"),
        ("description: Of two blocks.", "digest: x", "digest: there is no such key"),
        ("cell_limit: 600", "cell_limit: .inf", "cell_limit: inf is not a finite number"),
        ("cell_limit: 600", "cell_limit: 0", "cell_limit: should be greater than 0, not 0"),
        ("group_size: 8\nblocks:", "group_size: 8\nblokcs:", "blokcs: there is no such key; did you mean 'blocks'?"),
        ("group_size: 8\n", "group_size: 8\nname: twice\n", "line 11: key 'name' is given twice (first on line 1)"),
    ],
)
def test_a_mistake_is_named_with_file_place_and_remedy(old: str, new: str, words: str) -> None:
    assert old in TEXT
    with pytest.raises(UserError) as caught:
        read(TEXT.replace(old, new, 1))
    sentence = str(caught.value)
    assert sentence.startswith("suites/little.yaml")
    assert words in sentence
    assert "\n" not in sentence


def test_a_file_that_is_no_mapping_holds_no_suite() -> None:
    with pytest.raises(UserError, match="holds no suite"):
        read("- a\n")


def test_a_suite_is_found_by_name_or_by_path(tmp_path: Path) -> None:
    file = tmp_path / "little.yaml"
    file.write_text(TEXT)
    assert load_suite(file) == load_suite(str(file))
    assert load_suite(file).folder == tmp_path
    for name, path in suite_files().items():
        assert load_suite(name).name == name == path.stem


@pytest.mark.parametrize(
    ("name", "words"),
    [("smoke-v0", "there is no suite 'smoke-v0'; did you mean 'smoke-v2'"), ("nowhere.yaml", "there is no such file")],
)
def test_an_unknown_suite_is_refused_with_the_nearest(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_suite(name)
