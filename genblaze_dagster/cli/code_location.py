"""The user's Dagster definitions in this process, found as Dagster's own commands find them."""

import importlib
import importlib.util
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, cast

import click

from genblaze_dagster.cli.workspace import CodeLocation, code_location
from genblaze_dagster.errors import ConfigError, GenblazeError, NotFoundError

if TYPE_CHECKING:
    import dagster as dg

# Dagster takes two seconds to import: only when there is something to load.

module_option = click.option(
    "-m", "--module-name", "module", metavar="NAME", help="Python module with your Definitions."
)
file_option = click.option(
    "-f",
    "--python-file",
    "python_file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Python file with your Definitions.",
)
workspace_option = click.option(
    "-w",
    "--workspace",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A workspace.yaml that names the code location with your Definitions.",
)
location_option = click.option(
    "--location", metavar="NAME", help="With -w: the code location, when it names several."
)

_DEFAULT_FILE: Final = "definitions.py"
_WHERE: Final = "name one with -m MODULE or -f FILE"


def load_definitions(
    *,
    module: str | None,
    python_file: Path | None,
    workspace: Path | None = None,
    location: str | None = None,
) -> "dg.Definitions":
    """Load the user's definitions.

    Args:
        module: name of the module; it is looked for in the working directory as well.
        python_file: file to load instead. Without either, the module that `[tool.dagster]` or
            `[tool.dg.project]` of pyproject.toml names, else `definitions.py`.
        workspace: a workspace.yaml that names module or file.
        location: which of its code locations.

    Raises:
        UsageError: more than one place is given.
        NotFoundError: there is no such file or module, or nothing to go by.
        ConfigError: it cannot be imported, or does not have exactly one `Definitions`.
    """
    if sum(given is not None for given in (module, python_file, workspace)) > 1:
        raise click.UsageError("-m, -f and -w name places; give one of them")
    if workspace is not None:
        found = code_location(workspace, location)
    elif location is not None:
        raise click.UsageError("--location belongs to -w")
    else:
        found = _here(module, python_file)
    loaded = _imported(found)
    return _the_definitions(loaded, found)


def _here(module: str | None, python_file: Path | None) -> CodeLocation:
    """Return what is named, else what Dagster's own commands would load here."""
    if module is None and python_file is None:
        module = _configured(Path("pyproject.toml"))
        if module is None:
            python_file = Path(_DEFAULT_FILE)
            if not python_file.is_file():
                raise NotFoundError(
                    f"no definitions: neither pyproject.toml nor {_DEFAULT_FILE} is in "
                    f"{Path.cwd()}; {_WHERE}"
                )
    name = str(python_file) if python_file is not None else str(module)
    return CodeLocation(name, module, python_file)


def _configured(pyproject: Path) -> str | None:
    try:
        tool = tomllib.loads(pyproject.read_text("utf-8")).get("tool", {})
    except FileNotFoundError:
        return None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"pyproject.toml cannot be read ({exc}); {_WHERE}") from exc
    block = _table(tool, "dagster")
    if isinstance(named := block.get("module_name"), str):
        return named
    modules = block.get("modules")
    if isinstance(modules, list):
        names = [one.get("name") for one in modules if isinstance(one, dict)]
        if len(names) == 1 and isinstance(names[0], str):
            return names[0]
        raise ConfigError(f"[tool.dagster] of pyproject.toml names {len(names)} modules; {_WHERE}")
    project = _table(_table(tool, "dg"), "project")
    if isinstance(target := project.get("code_location_target_module"), str):
        return target
    root = project.get("root_module")
    return f"{root}.definitions" if isinstance(root, str) else None


def _table(parent: object, name: str) -> Mapping[str, Any]:
    child = cast(Mapping[str, Any], parent).get(name) if isinstance(parent, dict) else None
    return cast(Mapping[str, Any], child) if isinstance(child, dict) else {}


def _imported(location: CodeLocation) -> ModuleType:
    python_file, module = location.python_file, location.module or ""
    if python_file is not None and not python_file.is_file():
        raise NotFoundError(f"{python_file}: no such file; {_WHERE}")
    # As Dagster does: modules beside the definitions can be imported, and those of the project.
    folders = [python_file.absolute().parent] if python_file is not None else []
    if location.working_directory is not None:
        folders.append(location.working_directory)
    for folder in (*folders, Path.cwd()):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(module) if python_file is None else _executed(python_file)
    except GenblazeError:
        raise
    except ModuleNotFoundError as exc:
        if exc.name is not None and (module == exc.name or module.startswith(f"{exc.name}.")):
            raise NotFoundError(f"{module}: no such module here; {_WHERE}") from exc
        raise _broken(location.name, exc) from exc
    except Exception as exc:
        raise _broken(location.name, exc) from exc


def _executed(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: not a Python file; {_WHERE}")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickles look their module up by its name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _the_definitions(module: ModuleType, location: CodeLocation) -> "dg.Definitions":
    import dagster as dg
    from dagster.components.definitions import LazyDefinitions

    name = location.name
    wanted = vars(module)
    if location.attribute is not None:
        wanted = {location.attribute: wanted.get(location.attribute)}
    # One object may have several names.
    found = {
        id(value): value
        for value in wanted.values()
        if isinstance(value, dg.Definitions | LazyDefinitions)
    }
    if len(found) != 1:
        raise ConfigError(
            f"{name} has {len(found) or 'no'} Definitions objects; keep exactly one at its top level"
        )
    (one,) = found.values()
    try:
        loaded = one() if isinstance(one, LazyDefinitions) else one
    except GenblazeError:
        raise
    except Exception as exc:
        raise _broken(name, exc) from exc
    if not isinstance(loaded, dg.Definitions):
        raise ConfigError(f"{name} makes a {type(loaded).__name__}; return Definitions")
    return loaded


def _broken(name: str, error: Exception) -> ConfigError:
    return ConfigError(f"{name} cannot be loaded: {type(error).__name__}: {error}")
