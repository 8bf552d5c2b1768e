import os
import shutil
import subprocess
import sys

import pytest

from benchmark.compiled.library import FOLDER, SWITCH, library, sources

compile_again = library.__wrapped__
needs_a_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="there is no C compiler on this machine"
)
# Takes a fraction of the time, and is another set of flags all the same.
QUICK = ("-std=gnu11", "-O0", "-fPIC", "-shared")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("benchmark.compiled.library._FLAGS", QUICK)
    monkeypatch.delenv("CC", raising=False)
    return tmp_path / "unsplit-bench" / FOLDER


def compiler(tmp_path, body):
    file = tmp_path / "compiler"
    file.write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
    file.chmod(0o755)
    return str(file)


def no_more_compiling(monkeypatch):
    run = subprocess.run

    def refuse(command, **kwargs):
        assert "--version" in command, "compiled again"
        return run(command, **kwargs)

    monkeypatch.setattr(subprocess, "run", refuse)


@needs_a_compiler
def test_what_was_compiled_once_is_loaded_the_next_time(monkeypatch, own_cache):
    assert compile_again().code is not None
    assert len(list(own_cache.glob("*.so"))) == 1
    no_more_compiling(monkeypatch)
    assert compile_again().code is not None


@needs_a_compiler
def test_a_damaged_copy_is_never_loaded_but_made_anew(own_cache):
    compile_again()
    (kept,) = own_cache.glob("*.so")
    whole = kept.read_bytes()
    # Another file: this one is mapped into this process.
    kept.unlink()
    kept.write_bytes(whole[: len(whole) // 2])
    assert compile_again().code is not None
    assert [file.read_bytes() for file in own_cache.glob("*.so")] == [whole]


@needs_a_compiler
def test_other_flags_and_other_processors_have_copies_of_their_own(monkeypatch, own_cache):
    compile_again()
    monkeypatch.setattr("benchmark.compiled.library._FLAGS", (*QUICK, "-g0"))
    compile_again()
    monkeypatch.setattr("benchmark.compiled.library._processor", lambda: "another")
    compile_again()
    assert len(list(own_cache.glob("*.so"))) == 3


def test_without_a_compiler_the_state_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = compile_again()
    assert found.code is None
    assert found.state == "there is no C compiler (CC, cc, gcc or clang)"


def test_a_compiler_can_be_refused(monkeypatch):
    monkeypatch.setenv(SWITCH, "0")
    no_more_compiling(monkeypatch)
    assert compile_again().state == f"{SWITCH} is 0"


def test_a_compiler_that_fails_is_quoted(monkeypatch, tmp_path, own_cache):
    failing = compiler(tmp_path, "if '-o' in sys.argv: sys.exit('no such instruction\\nmore')")
    monkeypatch.setenv("CC", failing)
    found = compile_again()
    assert found.code is None
    assert found.state == f"{failing} failed: no such instruction"
    assert [file.name for file in own_cache.iterdir()] == ["lock"]


def test_a_compiler_that_writes_something_else_than_a_library_is_no_error(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", compiler(tmp_path, "if '-o' in sys.argv: open(sys.argv[-1], 'w').write('no library')"))
    assert compile_again().code is None


def test_a_cache_folder_that_cannot_be_written_is_no_error(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert compile_again().code is None


@pytest.mark.parametrize("setting", [("CC", 'cc "x'), ("XDG_CACHE_HOME", "~nobody-of-this-name/cache")])
def test_settings_that_cannot_be_read_are_no_error(monkeypatch, setting):
    monkeypatch.setenv(*setting)
    assert compile_again().code is None


def test_all_code_is_named_and_nothing_else():
    names = {file.name for file in sources()}
    assert {"filtered.c", "narrow.c", "lanes.h"} <= names
    assert not [name for name in names if not name.endswith((".c", ".h"))]


@needs_a_compiler
@pytest.mark.slow
@pytest.mark.parametrize("flags", ["-mno-avx512f", "-mno-avx", "-fsanitize=undefined -fno-sanitize-recover"])
def test_narrower_vectors_give_the_same_numbers_and_nothing_is_undefined(flags, tmp_path):
    # The tests of the convolutions once more, in a process in which nothing is loaded yet.
    environment = {**os.environ, "CC": f"gcc {flags}", "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_compiled_convolutions.py"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "skipped" not in done.stdout
