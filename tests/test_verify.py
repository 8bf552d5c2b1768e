"""Each way to break the contract is told in words."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmark.discovery import Kind
from benchmark.errors import UserError
from benchmark.verify import kind_of, planted_checks, verify

DEFENSE = '''
import random
from typing import ClassVar
import numpy as np
import torch
from pydantic import Field, PrivateAttr
from defenses.base import Defense, PrivacyStatement

class Mine(Defense):
    """Adds a little noise to what is sent. Own work."""
    name: ClassVar[str] = "mine"
    side: ClassVar[str] = "activations"
    strength: float = Field(0.1, ge=0, description="standard deviation of the noise")

    def protect_activations(self, z, rng, phase):
        return z + self.strength * rng.normal_like(z)
'''

ATTACK = '''
from typing import ClassVar
import torch
from pydantic import Field
from attacks.base import Attack, Finding
from benchmark.view import Knowledge

class Mine(Attack):
    """Answers with the mean auxiliary image. Own work."""
    name: ClassVar[str] = "mine"
    goals: ClassVar[tuple[str, ...]] = ("reconstruct",)
    rounds: int = Field(10**9, ge=1, description="how often")

    def knowledge(self):
        return frozenset({Knowledge.ARCHITECTURE, Knowledge.AUXILIARY})

    def run(self, views, budget, progress):
        assert self.rounds < 10, "too slow for a test"
        progress(1.0)
        return [Finding(reconstructions=v.auxiliary.images.mean(dim=0).expand(1, v.n, -1, -1, -1)) for v in views]
'''

NOISE = "return z + self.strength * rng.normal_like(z)"
MEAN = "v.auxiliary.images.mean(dim=0).expand(1, v.n, -1, -1, -1)"

BROKEN_DEFENSES = {
    '"mine"': ('"Mine!"', "is not lower_case_with_underscores"),
    'side: ClassVar[str] = "activations"': ('side: ClassVar[str] = "actuvations"', "'actuvations' is none of"),
    '    side: ClassVar[str] = "activations"\n': ("", "side is missing"),
    "Own work.": ("", "cites nothing"),
    '    """Adds a little noise to what is sent. Own work."""\n': ("", "no docstring of its own"),
    ', description="standard deviation of the noise"': ("", "no description: strength"),
    "(self, z, rng, phase)": ("(self, z, rng)", "should be protect_activations(self, z, rng, phase)"),
    "Field(0.1, ": ("Field(", "required and has no example"),
}
BROKEN_HOOKS = {
    "return z[:, :1]": "shape",
    "return z.double()": "keep the type",
    "return z / 0": "NaN or infinity",
    "return None": "returned NoneType",
    "return z.add_(1)": "writes into the smashed data z",
    "return z + torch.randn(z.shape)": "changes torch's global random stream",
    "return z + np.random.rand()": "changes numpy's global random stream",
    "return z + random.random()": "changes Python's global random stream",
    "torch.set_num_threads(7); return z": "changes the number of threads",
    "return z + torch.zeros(z.shape)": "made without device=",
    "return z + id(object()) % 7 + torch.rand(1, generator=torch.Generator('cpu').manual_seed(id(rng)), device='cpu')":
        "another result for the same rng",
    "return z.detach()": "cuts the gradient off",
    "return torch.where(z > 1, 1.0, 0.0) * (z * 0 + 1)": "zero everywhere",
    "return z - z.mean(dim=0)": "set couples_samples",
    "return z + undefined": "NameError: name 'undefined' is not defined (mine.py, line",
}  # fmt: skip
MORE_HOOKS = {
    "def protect_labels(self, y, n_classes, rng): return y + 1": "labels outside 0 .. 9",
    "def protect_gradients(self, g, y, rng): return g / g.norm()": "set couples_samples",
    "def client_loss(self, x, z, y, step): return z": "give a finite scalar",
    "def moved_cut(self, cut, cuts): return 'nowhere'": "'nowhere'",
    "def privacy(self): return [1]": "give PrivacyStatement objects",
    "def privacy(self): return [PrivacyStatement('labels', None, 0.0, 'record', 'add-remove', 'none')]": "why_invalid",
    "def privacy(self): return [PrivacyStatement('labels', -1.0, 0.0, 'record', 'add-remove', 'none')]": "at least 0",
    "_n: int = PrivateAttr(0)\n    def privatise(self, training):\n        self._n = 1; return training\n"
    "    def protect_inputs(self, x, rng, phase): return x + self._n": "keep what is learned in self.state",
}
BROKEN_ATTACKS = {
    ', Knowledge.AUXILIARY}': ("}", "asked its view for 'auxiliary'"),
    '("reconstruct",)': ('("reconstruct", "steal")', "steal"),
    'goals: ClassVar[tuple[str, ...]] = ("reconstruct",)': ('goals: ClassVar[str] = "reconstruct"', "write a tuple"),
    "for v in views]": ("for v in views[:1]]", "for 2 views; give a list"),
    "[Finding(reconstructions=": ("[(", "gives Tensor in its list"),
    "(1, v.n, -1, -1, -1)": ("(v.n, -1, -1, -1)", "mine"),
    "        progress(1.0)\n": ("", "never calls progress"),
    "progress(1.0)": ("progress(100)", "progress(100) is outside 0 .. 1"),
    MEAN: (MEAN + " + v.smashed.mul_(2).mean()", "writes into the view's smashed"),
    MEAN + ")": (MEAN + " + torch.rand(1))", "changes torch's global random stream"),
    MEAN + ") ": (MEAN + " + torch.zeros(1)) ", "made without device="),
    "(reconstructions=" + MEAN: (
        "(trace={'step': [1], 'loss': [1.0, 2.0]}, reconstructions=" + MEAN, "series of different lengths"),
    "(reconstructions=" + MEAN + ")": (
        "(checkpoints=[1, 2], reconstructions=" + MEAN + ")", "2 checkpoints and 1 reconstructions"),
}  # fmt: skip


def problems(kind: Kind, folder: Path, code: str) -> Iterator[str]:
    file = folder / "mine.py"
    file.write_text(code)
    return (check.problem for check in verify(kind, f"{file}:Mine") if check.problem is not None)


def is_told(words: str, told: Iterator[str]) -> bool:
    """Whether a problem says `words`; what comes after it is not run."""
    return any(words in problem for problem in told)


@pytest.mark.parametrize(("kind", "code"), [("defense", DEFENSE), ("attack", ATTACK)])
def test_what_keeps_the_contract_has_no_problems(kind: Kind, code: str, tmp_path: Path) -> None:
    assert list(problems(kind, tmp_path, code)) == []


@pytest.mark.parametrize("old", BROKEN_DEFENSES)
def test_a_defense_that_says_too_little_is_told_so(old: str, tmp_path: Path) -> None:
    new, words = BROKEN_DEFENSES[old]
    assert old in DEFENSE
    assert is_told(words, problems("defense", tmp_path, DEFENSE.replace(old, new, 1)))


@pytest.mark.parametrize("body", BROKEN_HOOKS)
def test_a_hook_that_breaks_the_contract_is_told_so(body: str, tmp_path: Path) -> None:
    assert is_told(BROKEN_HOOKS[body], problems("defense", tmp_path, DEFENSE.replace(NOISE, body)))


@pytest.mark.parametrize("hook", MORE_HOOKS)
def test_every_hook_is_looked_at(hook: str, tmp_path: Path) -> None:
    assert is_told(MORE_HOOKS[hook], problems("defense", tmp_path, f"{DEFENSE}\n    {hook}\n"))


@pytest.mark.parametrize("old", BROKEN_ATTACKS)
def test_an_attack_that_breaks_the_contract_is_told_so(old: str, tmp_path: Path) -> None:
    new, words = BROKEN_ATTACKS[old]
    assert old in ATTACK
    assert is_told(words, problems("attack", tmp_path, ATTACK.replace(old, new, 1)))


def test_the_kind_is_found_from_the_name_or_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(ATTACK)
    (tmp_path / "d.py").write_text(DEFENSE)
    texts = (f"{tmp_path}/a.py:Mine", f"{tmp_path}/d.py", "none")
    assert [kind_of(text) for text in texts] == ["attack", "defense", "defense"]


@pytest.mark.parametrize(
    ("text", "words"), [("nun", "there is no attack or defense 'nun'"), ("{folder}/x.py:X", "neither an attack nor a")]
)
def test_what_is_neither_is_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("class X: pass\n")
    with pytest.raises(UserError, match=words):
        kind_of(text.format(folder=tmp_path))


PLANTED = Path(__file__).parent / "plugins" / "planted.py"


def test_an_attack_meets_its_planted_clients_in_every_stance_and_is_told_where_it_fails() -> None:
    checks = list(planted_checks(f"{PLANTED}:TwoWays"))
    assert checks[0].title == "oblivious: 5 planted clients, budget steps=100"
    assert [check.title.split(":")[0] for check in checks] == ["oblivious"] * 6 + ["aware"] * 6
    passed = {check.title.split(": ")[1] for check in checks[1:] if check.problem is None}
    assert {title.partition(",")[0] for title in passed if "planted" not in title} == {"identity"}
    (failed, *_) = [check for check in checks if check.problem is not None]
    assert failed.title.startswith("oblivious: one unknown convolution, grey 28x28, inference: aligned SSIM 0.")
    assert "its failures will not count" in str(failed.problem)


def test_a_stance_and_a_budget_that_are_given_are_the_only_ones() -> None:
    first, *_ = planted_checks(f"{PLANTED}:TwoWays:stance=aware,steps=3")
    assert first.title == "aware: 5 planted clients, budget stance=aware,steps=3"
