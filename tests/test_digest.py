import ast
from pathlib import Path

import pytest

from benchmark.digest import _local_files, canonical_code, code_digest, source_digest
from benchmark.errors import PluginError

CODE = '''
"""What it is."""
from math import sqrt

class Mine:
    """Cites somebody."""

    def protect(self, z):
        """Does it."""
        return z * sqrt(2)  # why
'''


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(CODE)
    return file


def test_comments_docstrings_and_layout_do_not_change_the_digest(plugin: Path) -> None:
    before = code_digest(plugin, "Mine")
    plugin.write_text(
        'from math import (\n    sqrt,\n)\n\n\nclass Mine:\n    def protect(self, z):\n        "Other."\n'
        "        return (z *\n            sqrt(2))\n"
    )
    assert code_digest(plugin, "Mine") == before


@pytest.mark.parametrize(("old", "new"), [("sqrt(2)", "sqrt(3)"), ("z *", "z +"), ("def protect", "def _protect")])
def test_a_change_of_code_changes_the_digest(plugin: Path, old: str, new: str) -> None:
    before = code_digest(plugin, "Mine")
    plugin.write_text(CODE.replace(old, new))
    assert code_digest(plugin, "Mine") != before


def test_the_name_and_place_of_the_file_do_not_matter(plugin: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "other.py"
    moved.parent.mkdir()
    moved.write_text(CODE)
    assert code_digest(moved, "Mine") == code_digest(plugin, "Mine")


def test_two_classes_of_one_file_differ(plugin: Path) -> None:
    assert code_digest(plugin, "Mine") != code_digest(plugin, "Yours")


@pytest.mark.parametrize(
    "statement", ["import local", "from local import thing", "from sub import leaf", "import sub.leaf", "import via"]
)
def test_local_files_that_are_imported_count_also_through_others(plugin: Path, statement: str) -> None:
    folder = plugin.parent
    (folder / "sub").mkdir()
    (folder / "sub" / "__init__.py").write_text("")
    (folder / "sub" / "leaf.py").write_text("thing = 1\n")
    (folder / "local.py").write_text("thing = 1\n")
    (folder / "via.py").write_text("def late():\n    from local import thing\n    return thing\n")
    plugin.write_text(statement + "\n" + CODE)
    before = code_digest(plugin, "Mine")
    for leaf in ("local.py", "sub/leaf.py"):
        (folder / leaf).write_text("thing = 2\n")
    assert code_digest(plugin, "Mine") != before


def test_local_files_that_are_not_imported_do_not_count(plugin: Path) -> None:
    before = code_digest(plugin, "Mine")
    (plugin.parent / "local.py").write_text("thing = 1\n")
    assert code_digest(plugin, "Mine") == before


def test_files_that_import_each_other_end(plugin: Path) -> None:
    (plugin.parent / "other.py").write_text("import mine\n")
    plugin.write_text("import other\n" + CODE)
    assert len(code_digest(plugin, "Mine")) == 64


def test_relative_imports_inside_a_package_are_followed(tmp_path: Path) -> None:
    package = tmp_path / "pack" / "defs"
    package.mkdir(parents=True)
    for init in (package, package.parent):
        (init / "__init__.py").write_text("")
    (package / "mine.py").write_text("from .near import a\nfrom ..far import b\n" + CODE)
    for file, name in ((package / "near.py", "a"), (package.parent / "far.py", "b")):
        file.write_text(f"{name} = 1\n")
        before = code_digest(package / "mine.py", "Mine")
        file.write_text(f"{name} = 2\n")
        assert code_digest(package / "mine.py", "Mine") != before


def test_what_a_package_imports_from_its_neighbours_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "pack" / "mine.py").write_text("import library\n" + CODE)
    before = code_digest(tmp_path / "pack" / "mine.py", "Mine")
    (tmp_path / "library.py").write_text("big = 1\n")
    assert code_digest(tmp_path / "pack" / "mine.py", "Mine") == before


def test_a_built_in_that_a_user_derives_from_counts_and_the_contract_does_not(plugin: Path) -> None:
    digests = {}
    for module in ("defenses.none", "defenses.base", "defenses.missing"):
        plugin.write_text(f"import {module}\n" + CODE)
        labels = [label for label, _ in _local_files(plugin)]
        digests[module] = labels
    assert digests == {
        "defenses.none": ["", "defenses/__init__.py", "defenses/none.py"],
        "defenses.base": ["", "defenses/__init__.py"],
        "defenses.missing": ["", "defenses/__init__.py"],
    }


def test_the_source_of_a_class_without_a_file_has_a_digest_too() -> None:
    source = "class A:\n    x = 1\n"
    assert source_digest(source, "A") == source_digest("class A:\n    'Doc.'\n    x = 1 # one\n", "A")
    assert source_digest(source, "A") != source_digest("class A:\n    x = 2\n", "A")


def test_a_function_alone_ignores_the_rest_of_its_file(plugin: Path) -> None:
    before = code_digest(plugin, "Mine", alone=True)
    plugin.write_text(CODE + "\nother = 1\n")
    assert code_digest(plugin, "Mine", alone=True) == before


@pytest.mark.parametrize(
    ("content", "words"), [("def (:\n", "mine.py, line 1: not valid Python"), (None, "cannot be read")]
)
def test_a_file_that_is_no_python_is_refused(plugin: Path, content: str | None, words: str) -> None:
    if content is None:
        plugin.unlink()
    else:
        plugin.write_text(content)
    with pytest.raises(PluginError, match=words):
        code_digest(plugin, "Mine")


def test_the_canonical_text_is_the_same_under_every_python() -> None:
    # Written out, because it must never change: released results are found by it.
    code = canonical_code(ast.parse("def f(x: int = 1) -> str:\n    'doc'\n    return f'{x}' + u'a'\n"))
    assert code == (
        "Module(body=[FunctionDef(name='f'args=arguments(args=[arg(arg='x'annotation=Name(id='int')),]"
        "defaults=[Constant(value=1),])body=[Return(value=BinOp(left=JoinedStr(values=[FormattedValue(value=Name(id='x')"
        "conversion=-1),])op=Add()right=Constant(value='a'))),]returns=Name(id='str')),])"
    )
