"""Small changes of a module's code, each of which a test should notice.

Left alone: annotations, docstrings, decorators, the words of exceptions that are raised, and unions of types.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator, Sequence
from pathlib import Path

from attrs import field, frozen

ROOT = Path(__file__).parents[2]

_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
}
_FUNCTIONS = {"min": "max", "max": "min", "any": "all", "all": "any"}
#: For each enum the member that takes the place of every other one, and the one that takes its own.
_MEMBERS = {
    "RunStatus": ("QUEUED", "FAILED"),
    "AttemptOutcome": ("LOST", "FAILED"),
    "OccurrenceOutcome": ("FIRED", "SKIPPED"),
    "KeyKind": ("SINGLETON", "CONCURRENCY"),
    "SourceType": ("TRIGGER", "RERUN"),
    "ErrorCode": ("LEASE_LOST", "HISTORY_LIMIT"),
}
#: To give these None instead of an argument is a mistake that no test has to look for.
_BUILTIN = frozenset(dir(builtins)) | {"fields"}
_NOT_CODE = frozenset({"annotation", "returns", "decorator_list", "bases", "format_spec", "ctx", "type_comment"})


@frozen(eq=False)
class Mutant:
    """One change: where it is, what it says, and how it is made.

    Attributes:
        function: the outermost function or method whose body it is in, by its qualified name; None if it is in what is
            executed when the module is imported.
        statement: the text of its line.
        executed: the line of the statement that has to be executed for it to make a difference, in a function.
    """

    file: str
    line: int
    statement: str
    change: str
    function: str | None
    executed: int
    tree: ast.Module = field(repr=False)
    _parent: ast.AST = field(repr=False)
    _field: str = field(repr=False)
    _index: int | None = field(repr=False)
    _new: tuple[ast.AST, ...] = field(repr=False)

    def plant(self) -> ast.Module:
        """The module with this change; the tree is this process's only one, and has it from now on."""
        if self._index is None:
            (new,) = self._new
            setattr(self._parent, self._field, new)
        else:
            getattr(self._parent, self._field)[self._index : self._index + 1] = self._new
        return ast.fix_missing_locations(self.tree)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.change}"


@frozen
class _Place:
    """Where the walk is: at which place of which node, in which function's body."""

    parent: ast.AST
    field: str
    index: int | None
    function: str | None
    body: ast.FunctionDef | None
    executed: int


def mutants_of(file: str) -> list[Mutant]:
    """Every change of a module, in the order of its lines."""
    source = (ROOT / file).read_text("utf-8")
    lines, tree = source.splitlines(), ast.parse(source)
    found: dict[tuple[int, str, int | None, str], Mutant] = {}
    for node, place in list(_nodes(tree, None, None, "", 0)):
        for what, new in _changes(node, place):
            key = (id(place.parent), place.field, place.index, what)
            line: int = getattr(node, "lineno", 0) or _first_line(node)
            made = Mutant(
                file, line, lines[line - 1].strip(), what, place.function, place.executed, tree,
                place.parent, place.field, place.index, tuple(new),
            )  # fmt: skip
            found.setdefault(key, made)
    return sorted(found.values(), key=lambda mutant: mutant.line)


def _first_line(node: ast.AST) -> int:
    return min(inner.lineno for inner in ast.walk(node) if hasattr(inner, "lineno"))


def _nodes(
    node: ast.AST, function: str | None, body: ast.FunctionDef | None, owner: str, executed: int
) -> Iterator[tuple[ast.AST, _Place]]:
    """Every node that may be changed, with its place."""
    for name, value in ast.iter_fields(node):
        if name in _NOT_CODE or (name == "keywords" and isinstance(node, ast.ClassDef)):
            continue
        inside, within, around = function, owner, body
        if isinstance(node, ast.FunctionDef) and name == "body":
            inside, around = function or owner + node.name, node
        elif isinstance(node, ast.ClassDef):
            within = f"{owner}{node.name}."
        for index, child in enumerate(value) if isinstance(value, list) else ((None, value),):
            if not isinstance(child, ast.AST) or _is_left_alone(node, name, child, function):
                continue
            line = child.lineno if isinstance(child, ast.stmt) else executed
            yield child, _Place(node, name, index, inside, around, line)
            if not isinstance(child, ast.Raise):  # what it says is not what it does
                yield from _nodes(child, inside, around, within, line)


def _is_bound(name: str, node: ast.stmt, body: ast.FunctionDef | None) -> bool:
    """Whether a name has a value before a statement of a function."""
    if body is None:
        return False
    arguments = {argument.arg for argument in [*body.args.args, *body.args.kwonlyargs]}
    return name in arguments or any(
        isinstance(inner, ast.Name) and inner.id == name and inner.lineno < node.lineno for inner in ast.walk(body)
    )


def _is_left_alone(parent: ast.AST, name: str, child: ast.AST, function: str | None) -> bool:
    match child:
        case ast.Import() | ast.ImportFrom() | ast.alias() | ast.arg():
            return True
        case ast.Expr(value=ast.Constant(value=str())):
            return True
        case ast.Assign(value=ast.BinOp(op=ast.BitOr())) if function is None:
            return True  # a union of types
        case ast.Assign(value=ast.Call(func=ast.Name(id="TypeVar"))):
            return True
        case ast.AnnAssign(value=None):
            return True
        case _:
            return isinstance(parent, ast.Subscript) and name == "slice" and isinstance(child, ast.Tuple)


Change = tuple[str, Sequence[ast.AST]]


def _changes(node: ast.AST, place: _Place) -> Iterator[Change]:
    if isinstance(node, ast.expr) and not _is_a_target(node):
        for new in _expressions(node, place):
            yield f"{_text(node)} -> {_text(new)}", [new]
        yield from _left_out(node, place)
    elif isinstance(node, ast.stmt) and place.function is not None:
        yield from _statements(node, place)
    elif isinstance(node, ast.match_case):
        yield from _arms(node, place)
    elif isinstance(node, ast.MatchOr):
        for number, pattern in enumerate(node.patterns):
            rest = node.patterns[:number] + node.patterns[number + 1 :]
            yield f"pattern {_text(pattern)} left out", [ast.MatchOr(rest) if len(rest) > 1 else rest[0]]
    elif isinstance(node, ast.keyword) and isinstance(place.parent, ast.Call):
        yield f"{_text(place.parent.func)}(…, {node.arg}=…) without it", []


def _is_a_target(node: ast.expr) -> bool:
    return isinstance(getattr(node, "ctx", None), ast.Store)


def _expressions(node: ast.expr, place: _Place) -> Iterator[ast.expr]:
    """What takes the place of an expression."""
    match node:
        case ast.Compare(left, ops, comparators):
            for number, operator in enumerate(ops):
                for other in _COMPARISONS[type(operator)]:
                    yield ast.Compare(left, [*ops[:number], other(), *ops[number + 1 :]], comparators)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
            for number in range(len(values)):
                rest = values[:number] + values[number + 1 :]
                yield ast.BoolOp(op, rest) if len(rest) > 1 else rest[0]
        case ast.BinOp(left, op, right) if type(op) in _OPERATORS:
            yield ast.BinOp(left, _OPERATORS[type(op)](), right)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.Constant(value=value):
            yield from map(ast.Constant, _constants(value))
        case ast.IfExp(test, body, orelse) if not _is_changed_itself(test):
            yield ast.IfExp(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.Call(func=ast.Name(id=name)) if name in _FUNCTIONS:
            yield ast.Call(ast.Name(_FUNCTIONS[name], ast.Load()), node.args, node.keywords)
        case ast.Attribute(value=ast.Name(id=enum) as owner, attr=attr) if enum in _MEMBERS:
            other, instead = _MEMBERS[enum]
            yield ast.Attribute(owner, instead if attr == other else other, ast.Load())
    if _is_an_argument(node, place):
        yield ast.Constant(None)
    if isinstance(place.parent, ast.comprehension) and place.field == "ifs" and not _is_changed_itself(node):
        yield ast.UnaryOp(ast.Not(), node)


def _constants(value: object) -> Iterator[object]:
    match value:
        case bool():
            yield not value
        case int() | float():
            yield value + 1
        case str():
            yield "XX"


def _is_an_argument(node: ast.expr, place: _Place) -> bool:
    """Whether a call is given this, and might be given nothing instead."""
    if isinstance(node, ast.Constant | ast.Starred | ast.Lambda) or place.function is None:
        return False
    if isinstance(place.parent, ast.keyword):
        return True
    call = place.parent
    if not isinstance(call, ast.Call) or place.field != "args":
        return False
    return not (isinstance(call.func, ast.Name) and call.func.id in _BUILTIN)


def _left_out(node: ast.expr, place: _Place) -> Iterator[Change]:
    """A display without one of its parts."""
    if isinstance(place.parent, ast.Assign) and isinstance(place.parent.targets[0], ast.Tuple):
        return  # a pair that is taken apart at once
    match node:
        case ast.Tuple(elts) | ast.List(elts) | ast.Set(elts):
            for number, part in enumerate(elts):
                rest = elts[:number] + elts[number + 1 :]
                new = type(node)(rest) if isinstance(node, ast.Set) else type(node)(rest, ast.Load())
                yield f"{_short(node)} without {_text(part)}", [new]
        case ast.Dict(keys, values):
            for number, key in enumerate(keys):
                if key is not None:
                    rest = keys[:number] + keys[number + 1 :]
                    yield f"entry {_text(key)} left out", [ast.Dict(rest, values[:number] + values[number + 1 :])]


def _statements(node: ast.stmt, place: _Place) -> Iterator[Change]:
    """What takes the place of a statement of a function."""
    match node:
        case ast.If(test, body, orelse) if not _is_changed_itself(test):
            opposite = ast.UnaryOp(ast.Not(), test)
            yield f"if {_text(test)} -> if {_text(opposite)}", [ast.If(opposite, body, orelse)]
        case ast.Return(value=value) if value is not None:
            if not (isinstance(value, ast.Constant) and value.value is None):
                yield f"{_text(node)} -> return None", [ast.Return(ast.Constant(None))]
            if isinstance(place.parent, ast.If):
                yield f"{_text(node)} left out", [ast.Pass()]
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            if _is_bound(name, node, place.body):
                yield f"{_text(node)} left out", [ast.Pass()]
            elif not isinstance(value, ast.Constant):
                yield f"{_text(node)} -> None", [ast.Assign(node.targets, ast.Constant(None))]
        case ast.Assign() if not isinstance(node.targets[0], ast.Tuple):
            yield f"{_text(node)} left out", [ast.Pass()]
        case ast.Expr() | ast.AugAssign() | ast.Raise() | ast.Continue() | ast.Break():
            yield f"{_text(node)} left out", [ast.Pass()]


def _arms(node: ast.match_case, place: _Place) -> Iterator[Change]:
    head = f"case {_text(node.pattern)}" + (f" if {_text(node.guard)}" if node.guard else "")
    if isinstance(place.parent, ast.Match) and len(place.parent.cases) > 1:
        yield f"{head} left out", []
    if node.guard:
        yield f"{head} -> without its guard", [ast.match_case(node.pattern, None, node.body)]
        if not _is_changed_itself(node.guard):
            yield f"{head} -> not so", [ast.match_case(node.pattern, ast.UnaryOp(ast.Not(), node.guard), node.body)]


def _is_changed_itself(test: ast.expr) -> bool:
    """Whether a condition's opposite is among its own changes."""
    is_negated = isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)
    return is_negated or (isinstance(test, ast.Compare) and len(test.ops) == 1)


def _text(node: ast.AST) -> str:
    """An expression or statement as it is written, on one line."""
    return " ".join(ast.unparse(node).split())


def _short(node: ast.AST) -> str:
    text = _text(node)
    return text if len(text) <= 60 else text[:59] + "…"
