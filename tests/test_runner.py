from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import ClassVar

import pytest
import torch
from pydantic import Field

from attacks.base import Attack, Budget, Finding, Goal, Progress
from benchmark.cell import Group, TargetRule
from benchmark.context import RunContext, chosen_device
from benchmark.data import Dataset, load_dataset
from benchmark.errors import NotGranted, PluginError, UserError
from benchmark.metrics.recognition import recogniser_key
from benchmark.record import Record
from benchmark.runner import failed_record, run_group, train_victims
from benchmark.view import Knowledge, ServerView
from tests.idx_files import write_idx_files
from tests.specs import WATCH, cell_of, victim_spec


class Told(Attack):
    """Finds what it is told to find: a stand-in for every way a finding can be right or wrong. Own work."""

    name: ClassVar[str] = "told"
    goals: ClassVar[tuple[Goal, ...]] = ("reconstruct",)
    what: str = Field("grey", description="what it returns")

    def run(self, views: Sequence[ServerView], budget: Budget, progress: Progress) -> list[Finding]:
        if self.what == "too few":
            return []
        if self.what == "white box":
            return [Finding(reconstructions=view.client_head(view.smashed)) for view in views]
        images = [torch.full((1, view.n, *view.image_shape), 0.5, device=view.device) for view in views]
        wrong = {
            "nothing": lambda x: None,
            "nan": lambda x: x * float("nan"),
            "flat": lambda x: x[0],
            "grey": lambda x: x,
        }
        loss = {"grey": [4.0, 1.0, 0.5, 0.25]}.get(self.what, [])
        return [Finding(reconstructions=wrong[self.what](x), trace={"loss": loss}) for x in images]


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    return RunContext("tests", "0" * 64, str(tmp_path_factory.mktemp("victims")))


@pytest.fixture(scope="module")
def run(digits: Dataset, context: RunContext) -> Callable[..., Record]:
    known: dict[str, Record] = {}

    def one(attack: object, *defenses: str, spec: dict[str, object] | None = None, **axes: object) -> Record:
        cell = cell_of(victim_spec(digits, *defenses, **(spec or {})), attack, **axes)
        if cell.key() not in known:
            (known[cell.key()],) = run_group(Group((cell,)), context)
        return known[cell.key()]

    return one


U_SHAPED = {"topology": "u_shaped", "tail": "fc3", "watch": WATCH, "epochs": 2}
TRAINING = {"phase": "training", "targets": TargetRule("per_class", 2)}


def test_a_constant_image_leaks_nothing_and_is_its_own_control(run: Callable[..., Record]) -> None:
    record = run(Told())
    assert record.per_image["ssim_aligned"] == record.controls["constant"]["ssim_aligned"]


def test_the_white_box_recovers_digits_behind_the_first_pooling(run: Callable[..., Record]) -> None:
    record = run("known_client")
    assert fmean(record.per_image["ssim_aligned"]) > 0.9
    assert record.axes.role == "reference"


def test_the_white_box_identifies_every_digit_in_a_hundred_and_a_constant_gets_chance(
    run: Callable[..., Record],
) -> None:
    found, constant = run("known_client"), run(Told())
    assert found.per_image["identified"] == [1.0] * 10
    assert found.scalars["identification_candidates"] == 100
    assert constant.per_image["identified"] == [found.scalars["identification_chance"]] * 10


def test_the_white_box_shows_digits_that_can_be_read_and_a_constant_does_not(run: Callable[..., Record]) -> None:
    found, constant = run("known_client"), run(Told())
    assert fmean(found.per_image["recognised"]) >= found.scalars["recognition_of_truth"] - 0.1 > 0.7
    assert constant.per_image["recognised"] == constant.controls["constant"]["recognised"]
    assert fmean(constant.per_image["recognised"]) < 0.3


def test_a_cell_that_reconstructs_nothing_needs_no_classifier(digits: Dataset, tmp_path: Path) -> None:
    context = RunContext("tests", "0" * 64, str(tmp_path))
    spec = victim_spec(digits, **U_SHAPED)
    train_victims(Group((cell_of(spec, "gradient_similarity", **TRAINING),)), context)
    assert not (tmp_path / f"{recogniser_key(digits)}.safetensors").exists()
    train_victims(Group((cell_of(spec, Told()),)), context)
    assert (tmp_path / f"{recogniser_key(digits)}.safetensors").exists()


def test_a_record_survives_its_own_json(run: Callable[..., Record]) -> None:
    record = run(Told())
    assert Record.from_json(record.to_json()) == record


def test_a_record_says_which_targets_it_is_about(run: Callable[..., Record]) -> None:
    targets = run(Told()).targets
    assert sorted(targets["labels"]) == list(range(10))
    assert len(targets["digest"]) == 64


def test_an_undefended_victim_drops_no_utility(run: Callable[..., Record]) -> None:
    utility = run(Told()).utility
    assert utility["accuracy"] == utility["undefended_accuracy"] > utility["majority"]


def test_utility_is_measured_on_images_too_that_were_neither_trained_on_nor_attacked(
    run: Callable[..., Record],
) -> None:
    utility = run(Told()).utility
    assert utility["auxiliary_accuracy"] == pytest.approx(utility["accuracy"], abs=0.06)
    assert "auxiliary_accuracy" not in run(Told(), spec={"epochs": 0}).utility


def test_utility_is_measured_with_the_defense_on(run: Callable[..., Record]) -> None:
    utility = run(Told(), "gaussian_noise:relative=2.0").utility
    assert utility["accuracy"] < utility["undefended_accuracy"]


def test_labels_are_scored_beside_the_control_without_gradients(run: Callable[..., Record]) -> None:
    record = run("gradient_similarity", spec=U_SHAPED, **TRAINING)
    assert record.scalars["label_accuracy"] > 0.9
    assert set(record.controls) == {"chance", "majority", "known_labels_no_gradient"}


def test_stealing_is_scored_with_the_true_body_beside_random_clones(run: Callable[..., Record]) -> None:
    record = run("unsplit:clone=joint,rounds=2,input_steps=20,model_steps=20")
    assert record.scalars["victim_accuracy"] == record.utility["accuracy"]
    assert 0 <= record.controls["random_clone"]["steal_accuracy"][0] < record.scalars["victim_accuracy"]


def test_a_loss_that_still_falls_is_not_converged(run: Callable[..., Record]) -> None:
    assert run(Told()).convergence["converged"] is False


def test_the_steps_that_an_attack_could_do_without_are_recorded(run: Callable[..., Record]) -> None:
    attack = "unsplit:clone=joint,rounds=4,input_steps=5,model_steps=5,restarts=2,jitter=0.05,halve=0.5"
    convergence = run(attack).convergence
    assert (convergence["steps"], convergence["saved_steps"]) == (40, 10)


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("nothing", r"finding\.reconstructions is missing"),
        ("nan", "holds NaN or infinity"),
        ("flat", r"has shape \(10, 1, 28, 28\); it must be"),
        ("too few", "returned 0 findings for 1 views"),
    ],
)
def test_a_finding_that_breaks_the_contract_is_told_in_one_sentence(
    run: Callable[..., Record], what: str, sentence: str
) -> None:
    with pytest.raises(PluginError, match=f"attack told: .*{sentence}"):
        run(Told(what=what))


def test_an_attack_that_takes_what_it_does_not_declare_is_refused(run: Callable[..., Record]) -> None:
    with pytest.raises(NotGranted, match=Knowledge.CLIENT_WEIGHTS.value):
        run(Told(what="white box"))


def test_an_outcome_does_not_depend_on_the_victims_beside_it(digits: Dataset, context: RunContext) -> None:
    cells = tuple(cell_of(victim_spec(digits, seed=seed), "known_client:steps=100") for seed in (0, 1))
    together = list(run_group(Group(cells), context))
    alone = [record for cell in cells for record in run_group(Group((cell,)), context)]
    for one, other in zip(together, alone, strict=True):
        difference = [a - b for a, b in zip(one.per_image["mse_raw"], other.per_image["mse_raw"], strict=True)]
        assert max(map(abs, difference)) < 1e-3


def test_each_cell_of_a_group_is_attacked_and_scored_on_its_own_data(
    digits: Dataset, tmp_path: Path, context: RunContext
) -> None:
    write_idx_files(tmp_path / "MNIST" / "raw", digits)
    write_idx_files(tmp_path / "FashionMNIST" / "raw", digits, inverted=True)
    here = replace(context, data_root=str(tmp_path))
    both = [load_dataset(name, tmp_path) for name in ("mnist", "fashion-mnist")]
    cells = tuple(cell_of(victim_spec(dataset, epochs=0), "unsplit:rounds=1,input_steps=5") for dataset in both)
    together = list(run_group(Group(cells), here))
    alone = [record for cell in cells for record in run_group(Group((cell,)), here)]
    for record, dataset in zip(together, both, strict=True):
        assert record.targets["dataset_digest"] == dataset.digest
    for one, other in zip(together, alone, strict=True):
        assert one.targets == other.targets
        assert one.controls == other.controls
        assert one.per_image["mse_raw"] == pytest.approx(other.per_image["mse_raw"], abs=1e-5)
    assert together[0].per_image["mse_raw"] != pytest.approx(together[1].per_image["mse_raw"], abs=1e-2)


def test_victims_are_trained_once(digits: Dataset, context: RunContext) -> None:
    group = Group((cell_of(victim_spec(digits, "gaussian_noise:relative=0.5", seed=3), Told()),))
    train_victims(group, context)
    files = sorted(Path(context.cache).iterdir())
    list(run_group(group, context))
    assert sorted(Path(context.cache).iterdir()) == files


def test_a_perturbation_moves_a_score_a_little_and_the_targets_not_at_all(
    digits: Dataset, run: Callable[..., Record], tmp_path: Path
) -> None:
    moved = RunContext("tests", "0" * 64, str(tmp_path), perturbation=1e-4)
    (record,) = run_group(Group((cell_of(victim_spec(digits), "known_client:steps=100"),)), moved)
    plain = run("known_client:steps=100")
    assert record.targets == plain.targets
    assert 0 < abs(fmean(record.per_image["mse_raw"]) - fmean(plain.per_image["mse_raw"])) < 0.01


def test_a_failed_record_keeps_where_it_stands(digits: Dataset, context: RunContext) -> None:
    cell = cell_of(victim_spec(digits), Told())
    record = failed_record(cell, context, "raised ValueError: no", "Traceback ...")
    assert (record.status, record.key, record.axes) == ("failed", cell.key(), cell.axes())


def test_a_failed_record_names_the_targets_a_done_one_would(
    run: Callable[..., Record], digits: Dataset, context: RunContext
) -> None:
    for spec, axes in (({}, {}), (U_SHAPED, TRAINING)):
        done = run(Told(), spec=spec, **axes)
        failed = failed_record(cell_of(victim_spec(digits, **spec), Told(), **axes), context, "no", None)
        assert failed.targets["digest"] == done.targets["digest"]


def test_asking_for_cuda_where_there_is_none_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no CUDA device that torch can use; choose cpu or auto"):
        chosen_device("cuda")
