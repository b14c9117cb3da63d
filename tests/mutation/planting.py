"""Changes planted in memory: into functions that are imported already, or into a module before it is imported."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, FunctionType, ModuleType
from typing import Any

from tests.mutation.mutants import ROOT, Mutant


def module_of(file: str) -> str:
    """The name by which a file of the project is imported."""
    name = file.removesuffix(".py").replace("/", ".")
    return name if name.startswith("runlane.") else f"runlane.{name}"


def plant_in_function(mutant: Mutant) -> None:
    """Give a function of an imported module the code that it has with the change.

    Whoever holds the function, a converter of attrs or a property, has the changed one from now on.
    """
    assert mutant.function is not None
    module = sys.modules[module_of(mutant.file)]
    code = _named(compile(mutant.plant(), module.__file__ or "", "exec", dont_inherit=True), mutant.function)
    _function(module, mutant.function).__code__ = code


def note_lines(file: str, functions: Iterable[str], executed: set[str]) -> None:
    """Have functions of an imported module note each statement that they come to: ``file:line`` into `executed`.

    A trace function would be told of every line of anything, which takes many times as long.
    """
    module = sys.modules[module_of(file)]
    vars(module)["_executed"] = executed
    tree = _Notes(file).visit(ast.parse((ROOT / file).read_text("utf-8")))
    code = compile(ast.fix_missing_locations(tree), module.__file__ or "", "exec", dont_inherit=True)
    for name in functions:
        _function(module, name).__code__ = _named(code, name)


class _Notes(ast.NodeTransformer):
    """Puts a note before each statement."""

    def __init__(self, file: str) -> None:
        self._file = file

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Also of those within."""
        super().generic_visit(node)
        if isinstance(node, ast.Module | ast.ClassDef):
            return node
        for _, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                value[:] = [one for statement in value for one in (self._note(statement), statement)]
        return node

    def _note(self, statement: ast.stmt) -> ast.stmt:
        return ast.parse(f"_executed.add({f'{self._file}:{statement.lineno}'!r})").body[0]


def _named(code: CodeType, name: str) -> CodeType:
    """The code of a function or method, by its qualified name, in that of a module."""
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            if inner.co_qualname == name:
                return inner
            if name.startswith(f"{inner.co_qualname}."):
                return _named(inner, name)
    raise LookupError(f"no function {name} in {code.co_filename}")


def _function(module: ModuleType, name: str) -> FunctionType:
    *owners, last = name.split(".")
    owner: Any = module
    for part in owners:
        owner = getattr(owner, part)
    found = vars(owner)[last]
    if isinstance(found, property):
        found = found.fget
    assert isinstance(found, FunctionType), f"{name} is {found!r}"
    return found


def plant_before_import(mutant: Mutant) -> None:
    """Have the module imported with the change; it must not be imported yet."""
    module = module_of(mutant.file)
    assert module not in sys.modules
    sys.meta_path.insert(0, _Finder(module, mutant.plant()))


class _Finder(PathFinder):
    def __init__(self, module: str, tree: ast.Module) -> None:
        self._module, self._tree = module, tree

    def find_spec(  # type: ignore[override]
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's own spec, with a loader that has the changed tree."""
        if name != self._module:
            return None
        spec = PathFinder.find_spec(name, path, target)
        assert spec is not None
        assert spec.origin is not None
        spec.loader = _Loader(name, spec.origin, self._tree)
        return spec


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, tree: ast.Module) -> None:
        super().__init__(name, path)
        self._tree = tree

    def get_code(self, fullname: str) -> CodeType:
        """The code of the changed tree."""
        return compile(self._tree, self.path, "exec", dont_inherit=True)
