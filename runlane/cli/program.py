"""Which runtime a command works on: the program of ``--app``, or a bare database."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from attrs import define

from runlane.aio import AsyncRunlane
from runlane.app import Runlane
from runlane.errors import ConfigurationInvalid, RunlaneError

F = TypeVar("F", bound=Callable[..., Any])


@define
class Program:
    """The global options of one invocation, and the runtime they name."""

    app: str | None = None
    database: str | None = None
    environment: str | None = None
    json: bool = False
    debug: bool = False
    _runtime: Runlane | None = None

    def runtime(self, *, tasks: bool = False) -> Runlane:
        """The runtime, not yet started.

        Args:
            tasks: whether the command needs to know tasks, so that a bare database will not do.

        Raises:
            ConfigurationInvalid: nothing was named, or it cannot be loaded.
        """
        if self._runtime is None:
            self._runtime = self._make(tasks)
        return self._runtime

    def started(self, *, tasks: bool = False) -> Runlane:
        """The runtime, started: the database is there and migrated."""
        return self.runtime(tasks=tasks).start()

    def log(self) -> None:
        """Let warnings of workers, and what handlers log, be seen on standard error."""
        level = logging.DEBUG if self.debug else logging.INFO
        logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")

    def close(self) -> None:
        """Close the runtime, if one was made."""
        if self._runtime is not None:
            self._runtime.close()

    def named(self, *, tasks: bool) -> str:
        """The ``module:name`` of the program; nothing is imported.

        Raises:
            ConfigurationInvalid: there is none, or a database is named as well.
        """
        return self._found(tasks)[0]

    def _found(self, tasks: bool) -> tuple[str, Path]:
        """The ``module:name`` of the program, and the folder from which it is imported."""
        if self.app and self.database:
            raise ConfigurationInvalid("give --app or --database, not both: an app has its own database")
        if self.database:
            raise ConfigurationInvalid("this command needs tasks, which live in a program: give --app module:name")
        named, folder = self.app or os.environ.get("RUNLANE_APP"), Path.cwd()
        if not named:
            named, folder = _of_pyproject(folder)
        if not named:
            raise ConfigurationInvalid(
                "say what to work on: --app module:name (or RUNLANE_APP, or app = … under [tool.runlane] in "
                "pyproject.toml)" + ("" if tasks else ", or --database URL")
            )
        return named, folder

    def _make(self, tasks: bool) -> Runlane:
        if self.database and not self.app and not tasks:
            return Runlane(self.database, environment=self.environment or "default")
        named, folder = self._found(tasks)
        app = load(named, folder)
        if self.environment not in (None, app.environment):
            raise ConfigurationInvalid(
                f"--environment is {self.environment!r}, but {named} works in {app.environment!r}; "
                "leave it out, or give --database"
            )
        return app


def load(named: str, folder: Path | None = None, *, option: str = "--app") -> Runlane:
    """The runtime at ``module:name``: a ``Runlane``, an ``AsyncRunlane``, or a function that returns one.

    Args:
        folder: where the module may be, besides the current folder and where Python looks anyway.
        option: what names it; errors begin with that and the name.

    Raises:
        ConfigurationInvalid: naming what could not be found.
    """
    module_name, _, path = named.partition(":")
    if not module_name or not path:
        raise ConfigurationInvalid(f"{option} {named}: it must look like module:name, for example shop.jobs:app")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    if folder not in (None, Path.cwd()) and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    said = f"{option} {named}"
    found = _imported(said, module_name)
    for part in path.split("."):
        if not hasattr(found, part):
            raise ConfigurationInvalid(f"{said}: {module_name} has no {path!r}")
        found = getattr(found, part)
    if callable(found) and not isinstance(found, type):
        found = _called(said, path, found)
    if isinstance(found, AsyncRunlane):
        return found._app  # commands are sync; its own face is for asyncio programs
    if not isinstance(found, Runlane):
        raise ConfigurationInvalid(f"{said} is a {type(found).__name__}, not a Runlane or AsyncRunlane")
    return found


def _imported(said: str, module_name: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name + ".").startswith(error.name + "."):
            raise ConfigurationInvalid(f"{said}: there is no module {error.name!r} here") from error
        raise ConfigurationInvalid(f"{said}: importing {module_name} failed: {error}") from error
    except (Exception, SystemExit) as error:  # a module that wants to exit is none that can be imported
        raise _failed(said, f"importing {module_name}", error) from error


def _called(said: str, path: str, factory: Callable[[], Any]) -> Any:
    try:
        return factory()
    except RunlaneError:
        raise
    except (Exception, SystemExit) as error:
        raise _failed(said, f"calling {path}", error) from error


def _failed(said: str, doing: str, error: BaseException) -> ConfigurationInvalid:
    return ConfigurationInvalid(f"{said}: {doing} failed: {type(error).__name__}: {error}")


def _of_pyproject(folder: Path) -> tuple[str | None, Path]:
    """``app`` under ``[tool.runlane]`` of the nearest pyproject.toml, and the folder of that."""
    for place in (folder, *folder.parents):
        file = place / "pyproject.toml"
        if not file.is_file():
            continue
        try:
            options: Any = tomllib.loads(file.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigurationInvalid(f"{file} cannot be read: {error}") from error
        for name in ("tool", "runlane"):
            options = options.get(name, {})
            if not isinstance(options, dict):
                raise ConfigurationInvalid(f"[tool.runlane] of {file} must be a table, with app = module:name")
        app = options.get("app")
        if app is not None and not isinstance(app, str):
            raise ConfigurationInvalid(f"app under [tool.runlane] of {file} must be text like module:name")
        return app, place
    return None, folder


def _keep(context: click.Context, option: click.Parameter, value: Any) -> None:
    """Store a global option, wherever on the command line it stands."""
    if value not in (None, False):
        setattr(context.ensure_object(Program), str(option.name), value)


def program_options(command: F) -> F:
    """The options that every command understands, before and after its name."""
    options = (
        click.option("--app", metavar="MODULE:NAME", help="The program: where its Runlane is."),
        click.option("--database", metavar="URL", help="A database: sqlite:///file.db or postgresql://…"),
        click.option("--environment", metavar="NAME", help="With --database: the environment (default: default)."),
        click.option("--json", is_flag=True, help="JSON lines instead of tables."),
        click.option("--debug", is_flag=True, help="Show the traceback of an error."),
    )
    before = list(getattr(command, "__click_params__", ()))
    for option in reversed(options):
        option(command)
    parameters: list[click.Parameter] = command.__dict__["__click_params__"]
    shared = parameters[len(before) :]
    for parameter in shared:
        parameter.expose_value, parameter.callback = False, _keep
    parameters[:] = [*shared, *before]  # click lists them from the end: the command's own options come first
    return command
