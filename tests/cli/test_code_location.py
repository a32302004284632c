import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from genblaze_dagster.cli.code_location import load_definitions
from genblaze_dagster.errors import ConfigError, NotFoundError

ONE = "import dagster as dg\ndefs = dg.Definitions(metadata={'of': '%s'})\nsame = defs\n"
LAZY = (
    "import dagster as dg\n"
    "@dg.definitions\n"
    "def defs():\n"
    "    return dg.Definitions(metadata={'of': 'lazy'})\n"
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory; what is imported from it is forgotten at the end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = dict(sys.modules)
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]
            if name in before:
                sys.modules[name] = before[name]


def loaded(*, module: str | None = None, python_file: Path | None = None) -> str:
    defs = load_definitions(module=module, python_file=python_file)
    return str(next(iter((defs.metadata or {}).values())).value)


def test_a_file_is_loaded_with_what_lies_beside_it(project: Path) -> None:
    """Also one that makes its definitions only when it is asked."""
    (project / "beside_the_file.py").write_text("name = 'file'")
    path = project / "mine.py"
    path.write_text(
        "import dagster as dg\nfrom beside_the_file import name\n"
        "defs = dg.Definitions(metadata={'of': name})\n"
    )
    assert loaded(python_file=path) == "file"
    path.write_text(LAZY)
    assert loaded(python_file=path) == "lazy"


def test_a_module_of_the_working_directory_is_found(project: Path) -> None:
    """As with `dagster -m`."""
    (project / "code_of_module.py").write_text(ONE % "module")
    assert loaded(module="code_of_module") == "module"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("[tool.dagster]\nmodule_name = 'named_a'", "named_a"),
        ("[tool.dagster]\nmodules = [{type = 'module', name = 'named_b'}]", "named_b"),
        ("[tool.dg.project]\nroot_module = 'named_c'", "named_c.definitions"),
        (
            "[tool.dg.project]\nroot_module = 'x'\ncode_location_target_module = 'named_d'",
            "named_d",
        ),
        ("[project]\nname = 'x'", "definitions"),
        (None, "definitions"),
    ],
    ids=["module", "modules", "dg", "dg-target", "neither", "no-file"],
)
def test_without_a_name_the_project_says_where(project: Path, text: str | None, name: str) -> None:
    """[tool.dagster], then [tool.dg.project] of pyproject.toml, then definitions.py."""
    if text is not None:
        (project / "pyproject.toml").write_text(text)
    path = project.joinpath(*name.split(".")).with_suffix(".py")
    path.parent.mkdir(exist_ok=True)
    path.write_text(ONE % name)
    assert loaded() == name


@pytest.mark.parametrize(
    ("files", "kind", "words"),
    [
        ({}, NotFoundError, "no definitions: neither pyproject.toml nor definitions.py is in"),
        (
            {"pyproject.toml": "[tool.dagster]\nmodule_name = 'no_such_one'"},
            NotFoundError,
            "no such",
        ),
        ({"pyproject.toml": "[tool"}, ConfigError, "pyproject.toml cannot be read"),
        (
            {"pyproject.toml": "[tool.dagster]\nmodules = [{name = 'a'}, {name = 'b'}]"},
            ConfigError,
            "names 2 modules; name one with -m",
        ),
        ({"definitions.py": "import no_such_package"}, ConfigError, "ModuleNotFoundError"),
        ({"definitions.py": "1 / 0"}, ConfigError, "ZeroDivisionError"),
        ({"definitions.py": "x = 1"}, ConfigError, "has no Definitions objects"),
        ({"definitions.py": ONE % "" + "b = dg.Definitions()"}, ConfigError, "has 2 Definitions"),
    ],
    ids=["nothing", "no-module", "broken", "two", "import", "crash", "none", "several"],
)
def test_what_cannot_be_loaded_says_why(
    project: Path, files: dict[str, str], kind: type[Exception], words: str
) -> None:
    """It names the place, and how to name another."""
    for name, text in files.items():
        (project / name).write_text(text)
    with pytest.raises(kind, match=words):
        loaded()


def test_a_file_that_is_not_there_is_named(project: Path) -> None:
    """And so is what to give instead."""
    with pytest.raises(NotFoundError, match=r"mine\.py: no such file; name one with -m"):
        loaded(python_file=Path("mine.py"))
