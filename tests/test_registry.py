import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import ClassVar

import pytest

from benchmark import registry
from benchmark.cell import PluginRef
from benchmark.digest import HARNESS
from benchmark.errors import PluginError, UserError
from benchmark.models import mnist_net
from defenses.base import Defense, Side
from defenses.none import NoDefense

PLUGIN = '''
from typing import ClassVar

from pydantic import Field

from defenses.base import Defense


class Scaled(Defense):
    """Scales what is sent. Own work."""

    name: ClassVar[str] = "scaled"
    version: ClassVar[int] = 3
    side: ClassVar[str] = "activations"

    strength: float = Field(1.0, gt=0, description="factor")

    def protect_activations(self, z, rng, phase):
        return z * self.strength
'''


class InThisFile(Defense):
    name: ClassVar[str] = "in_this_file"
    side: ClassVar[Side] = "none"


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN)
    return file


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like site-packages with a distribution that registers two defenses, one of them broken."""
    site = tmp_path / "site"
    (site / "acme").mkdir(parents=True)
    (site / "acme" / "__init__.py").write_text("")
    (site / "acme" / "scaled.py").write_text("from .factor import FACTOR\n" + PLUGIN)
    (site / "acme" / "factor.py").write_text("FACTOR = 2\n")
    (site / "acme" / "broken.py").write_text("import nothing_of_that_name\n")
    meta = site / "acme_defenses-1.0.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-defenses\nVersion: 1.0\n")
    (meta / "entry_points.txt").write_text(
        "[unsplit_bench.defenses]\nscaled = acme.scaled:Scaled\nbad = acme.broken:Bad\nnone = acme.scaled:Scaled\n"
        "[unsplit_bench.models]\nacme_net = benchmark.models:mnist_net\n"
    )
    monkeypatch.syspath_prepend(str(site))
    return site


def test_built_in_plugins_are_found_by_their_files_and_not_imported() -> None:
    code = (
        "import sys, json; from benchmark import registry; "
        "found = [[o.name, o.source] for k in ('attack', 'defense', 'model') for o in registry.listed(k)]; "
        "print(json.dumps([found, [m for m in ('torch', 'pydantic', 'pandas') if m in sys.modules]]))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=HARNESS)
    found, heavy = json.loads(answer.stdout)
    assert ["none", "builtin"] in found
    assert ["mnist_net", "builtin"] in found
    assert heavy == []


def test_a_listing_carries_the_first_line_of_the_docstring() -> None:
    origin = registry.find("defense", "none")
    assert origin.summary == (NoDefense.__doc__ or "").partition("\n")[0]


def test_a_reference_holds_all_parameters_and_loads_an_equal_instance(plugin: Path) -> None:
    ref = registry.reference("defense", f"{plugin}:Scaled:strength=2")
    assert (ref.name, ref.version, ref.changed) == ("scaled", 3, "strength=2.0")
    assert ref.parameters == {"strength": 2.0}
    assert ref.source == f"{plugin}:Scaled"
    assert ref.trains
    assert registry.load_defense(ref).parameters() == {"strength": 2.0}
    assert registry.load_defense(PluginRef(**json.loads(json.dumps(asdict(ref))))) == registry.load_defense(ref)


def test_the_class_may_be_left_out_where_the_file_holds_one(plugin: Path) -> None:
    assert registry.reference("defense", str(plugin)) == registry.reference("defense", f"{plugin}:Scaled")


def test_a_relative_path_starts_from_the_folder_given(plugin: Path) -> None:
    assert registry.reference("defense", "mine.py:Scaled", plugin.parent).source == f"{plugin}:Scaled"


def test_a_defense_that_overrides_no_training_hook_does_not_train() -> None:
    assert not registry.reference("defense", "none").trains


def test_an_instance_and_its_text_give_the_same_reference(plugin: Path) -> None:
    ref = registry.reference("defense", f"{plugin}:Scaled:strength=2")
    cls = registry.plugin("defense", f"{plugin}:Scaled")
    assert registry.reference("defense", cls(strength=2)).identity() == ref.identity()
    assert registry.reference_of(NoDefense()) == registry.reference("defense", "none")


def test_a_class_of_an_imported_file_is_known_by_its_path() -> None:
    ref = registry.reference_of(InThisFile())
    assert ref.source == f"{Path(__file__).resolve()}:InThisFile"
    assert isinstance(registry.load_defense(ref), InThisFile)


def test_a_class_without_a_place_of_its_own_lives_in_this_process() -> None:
    class Inner(Defense):
        name: ClassVar[str] = "inner"
        side: ClassVar[Side] = "none"

    ref = registry.reference_of(Inner())
    assert ref.source == "live"
    assert len(ref.digest) == 64
    assert isinstance(registry.load_defense(ref), Inner)


def test_a_live_class_does_not_load_elsewhere() -> None:
    ref = PluginRef("defense", "inner", {}, "", "live", 1, "0" * 64)
    with pytest.raises(PluginError, match="put it into a file"):
        registry.load_defense(ref)


def test_what_is_neither_attack_nor_defense_is_refused() -> None:
    with pytest.raises(UserError, match="int is neither an attack nor a defense"):
        registry.reference("defense", 3)


def test_an_unknown_name_is_refused_with_the_nearest_and_the_list() -> None:
    with pytest.raises(UserError, match=r"no defense 'nonne'; did you mean 'none'.*choose one of: .*none"):
        registry.reference("defense", "nonne")


def test_parameters_that_do_not_exist_are_refused(plugin: Path) -> None:
    with pytest.raises(UserError, match=r"scaled has no parameter 'strenght'.*did you mean 'strength'"):
        registry.reference("defense", f"{plugin}:Scaled:strenght=2")


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        (None, "Scaled", "there is no file"),
        ("import nothing_of_that_name\n", "Scaled", "cannot be imported: ModuleNotFoundError.*line 1"),
        ("raise SystemExit(0)\n", "Scaled", "cannot be imported: SystemExit: 0 .*line 1"),
        ("def (\n", "Scaled", "line 1: not valid Python"),
        ("x = 1\n", "Scaled", "defines no 'Scaled'"),
        ("class Scaled: pass\n", "Scaled", "derive it from Defense"),
        ("x = 1\n", "", "holds 0 defense classes"),
        (PLUGIN + "\nclass More(Scaled): pass\n", "", r"holds 2 defense classes \(Scaled, More\)"),
        ("from defenses.base import Defense\nclass Scaled(Defense): pass\n", "Scaled", "has no name"),
    ],
)
def test_a_file_that_holds_no_such_plugin_is_refused_in_words(
    tmp_path: Path, content: str | None, name: str, words: str
) -> None:
    file = tmp_path / "mine.py"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=words):
        registry.reference("defense", f"{file}:{name}" if name else str(file))


def test_code_that_changed_since_the_reference_was_made_is_refused(plugin: Path) -> None:
    plugin.write_text(PLUGIN.replace("z * self", "z - self"))
    ref = registry.reference("defense", f"{plugin}:Scaled")
    plugin.write_text(PLUGIN.replace("z * self", "z + self"))
    with pytest.raises(PluginError, match="changed since the plan was made"):
        registry.load_defense(ref)


def test_changed_code_is_imported_anew(plugin: Path) -> None:
    before = registry.plugin("defense", str(plugin))
    plugin.write_text(PLUGIN.replace("version: ClassVar[int] = 3", "version: ClassVar[int] = 4"))
    assert (before.version, registry.plugin("defense", str(plugin)).version) == (3, 4)


def test_plugins_of_two_folders_each_get_their_own_local_module(tmp_path: Path) -> None:
    versions = {"one": 11, "two": 22}
    for folder, version in versions.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "neighbour_of_mine.py").write_text(f"VERSION = {version}\n")
        code = "from neighbour_of_mine import VERSION\n" + PLUGIN.replace("[int] = 3", "[int] = VERSION")
        (tmp_path / folder / "mine.py").write_text(code)
    found = {folder: registry.plugin("defense", str(tmp_path / folder / "mine.py")).version for folder in versions}
    assert found == versions


def test_a_folder_with_packages_named_like_ours_takes_nothing_over(tmp_path: Path) -> None:
    (tmp_path / "defenses").mkdir()
    (tmp_path / "defenses" / "__init__.py").write_text("raise RuntimeError('the wrong one')\n")
    (tmp_path / "benchmark.py").write_text("raise RuntimeError('the wrong one')\n")
    (tmp_path / "mine.py").write_text(PLUGIN)
    assert registry.reference("defense", str(tmp_path / "mine.py")).name == "scaled"


def test_installed_packages_register_through_entry_points(installed: Path) -> None:
    ref = registry.reference("defense", "scaled:strength=2")
    assert (ref.source, ref.parameters) == ("entry point acme-defenses", {"strength": 2.0})
    assert registry.load_defense(ref).name == "scaled"
    assert registry.reference_of(registry.load_defense(ref)) == ref
    assert registry.find("model", "acme_net").source == "entry point acme-defenses"


def test_a_broken_plugin_is_listed_with_its_traceback_beside_the_others(installed: Path) -> None:
    found = {(o.name, o.source): o.error for o in registry.listed("defense", check=True)}
    assert "nothing_of_that_name" in (found["bad", "entry point acme-defenses"] or "")
    assert found["none", "builtin"] is None


def test_a_built_in_plugin_wins_over_a_registered_one_of_its_name(installed: Path) -> None:
    found = {(o.name, o.source): o.error for o in registry.listed("defense")}
    assert (
        found["none", "entry point acme-defenses"] == "hidden by another defense called 'none'; rename the entry point"
    )
    assert registry.find("defense", "none").source == "builtin"


def test_a_model_is_its_factory(tmp_path: Path) -> None:
    ref = registry.reference("model", "mnist_net")
    assert registry.load_model(ref) is mnist_net
    file = tmp_path / "nets.py"
    file.write_text("from benchmark.models import mnist_net\ndef my_net(image_shape, n_classes):\n    return 1\n")
    own = registry.reference("model", f"{file}:my_net")
    assert (own.name, own.source) == ("my_net", f"{file}:my_net")
    assert registry.load_model(own)((1, 28, 28), 10) == 1


@pytest.mark.parametrize(
    ("text", "words"), [("mnist_net:width=3", "takes no parameters"), ("{file}", "name the factory")]
)
def test_a_model_without_a_factory_or_with_parameters_is_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "nets.py"
    file.write_text("x = 1\n")
    with pytest.raises(UserError, match=words):
        registry.reference("model", text.format(file=file))
