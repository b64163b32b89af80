"""Mutants of a file: each has one thing changed that a test should notice (tools/mutation.py).

Left alone: default values, decorators, annotations, fields of classes, docstrings, and arguments
whose absence any call would notice.
"""

import ast
from collections.abc import Callable, Iterator
from functools import partial
from itertools import takewhile
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

OTHERS: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.And: (ast.Or,), ast.Or: (ast.And,),
    ast.BitAnd: (ast.BitOr,), ast.BitOr: (ast.BitAnd,), ast.Add: (ast.Sub,), ast.Sub: (ast.Add,),
    ast.Mult: (ast.FloorDiv,), ast.FloorDiv: (ast.Mult,), ast.Div: (ast.Mult,),
    ast.Pow: (ast.Mult,),
}  # fmt: skip
NAMES = {"min": "max", "max": "min", "all": "any", "any": "all"}
NEGATED = ast.Compare | ast.BoolOp | ast.UnaryOp  # by themselves
ANY_NUMBER = ("and_", "max", "min", ".where")  # of arguments


class Mutant(NamedTuple):
    function: str  # its qualified name; "": a statement of the module
    line: int
    change: str
    code: CodeType


class Place(NamedTuple):
    """Where something else could stand, and the statement or condition that it is a part of."""

    part: Any
    put: Callable[[Any], None]
    context: ast.AST


def mutants(path: str) -> Iterator[Mutant]:
    module = ast.parse(Path(path).read_text())
    for function, top in changeable(module):
        whole = module if function else ast.Module([top], [])
        for part, put, context in places(top):
            for variant in variants(part):
                before = ast.unparse(context)
                put(variant)
                after = ast.unparse(variant if context is part else context)
                code = compile(ast.fix_missing_locations(whole), path, "exec")
                put(part)
                line = getattr(part, "lineno", top.lineno)
                yield Mutant(function, line, difference(before, after), code)


def marked(path: str, mark: str) -> CodeType:
    """Each function says its name first."""
    module = ast.parse(Path(path).read_text())
    for function, top in changeable(module):
        if function:
            top.body.insert(0, ast.parse(f"{mark}({function!r})").body[0])
    return compile(module, path, "exec")


def changeable(tree: ast.Module | ast.ClassDef, within: str = "") -> Iterator[tuple[str, ast.stmt]]:
    """The functions, and the module's own assignments."""
    for statement in tree.body:
        match statement:
            case ast.FunctionDef(name) | ast.AsyncFunctionDef(name):
                yield within + name, statement
            case ast.ClassDef(name):
                yield from changeable(statement, f"{within}{name}.")
            case ast.Assign() if not within:
                yield "", statement


def places(node: ast.AST, context: ast.AST | None = None) -> Iterator[Place]:
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "decorator_list", "returns", "target", "targets"):
            continue
        several = value if isinstance(value, list) else [value]
        for index, part in enumerate(several):
            match part:
                case ast.arguments() | ast.Assert() | ast.Expr(ast.Constant()):
                    continue
                case ast.AST():
                    inner = part if context is None or isinstance(part, ast.stmt) else context
                    put = partial(value.__setitem__, index) if several is value else None
                    yield Place(part, put or partial(setattr, node, field), inner)
                    if not isinstance(part, ast.JoinedStr):
                        yield from places(part, None if hasattr(part, "body") else inner)


def variants(node: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(left, ops, values):
            for place, op in enumerate(ops):
                for other in OTHERS[type(op)]:
                    yield ast.Compare(left, [*ops[:place], other(), *ops[place + 1 :]], values)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(OTHERS[type(op)][0](), values)
            for rest in one_less(values):
                yield ast.BoolOp(op, rest) if len(rest) > 1 else rest[0]
        case ast.BinOp(left, op, right) if type(op) in OTHERS:
            yield ast.BinOp(left, OTHERS[type(op)][0](), right)
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield operand
        case ast.IfExp(test, body, orelse):
            yield ast.IfExp(test, orelse, body)
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(str(value)):
            yield ast.Constant(value + "X")
        case ast.Constant(bytes(value)):
            yield ast.Constant(value + b"X")
        case ast.JoinedStr(values):
            yield ast.JoinedStr([*values, ast.Constant("X")])
        case ast.Call(function, arguments, keywords):
            name = ast.unparse(function)
            if name in NAMES:
                yield ast.Call(ast.Name(NAMES[name], ast.Load()), arguments, keywords)
            if name.endswith(ANY_NUMBER):
                yield from (ast.Call(function, rest, keywords) for rest in one_less(arguments))
            yield from (ast.Call(function, arguments, rest) for rest in one_less(keywords))
        case ast.List(items) | ast.Set(items) | ast.Tuple(items) if len(items) > 1:
            context = () if isinstance(node, ast.Set) else (ast.Load(),)
            yield from (type(node)(rest, *context) for rest in one_less(items))
        case ast.Dict(keys, values):
            yield from map(ast.Dict, one_less(keys), one_less(values))
        case ast.If(test, body, orelse) if not isinstance(test, NEGATED):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.Return(None):
            yield ast.Pass()
        case ast.Return(value) if not isinstance(value, ast.Constant):
            yield ast.Return(ast.Constant(None))
        case ast.Expr() | ast.AugAssign() | ast.Raise() | ast.Continue():
            yield ast.Pass()
        case ast.Assign([ast.Attribute() | ast.Subscript()]):
            yield ast.Pass()
        case ast.comprehension(target, iterable, [_, *_], is_async):
            yield ast.comprehension(target, iterable, [], is_async)


def one_less(values: list[Any]) -> Iterator[list[Any]]:
    return (values[:place] + values[place + 1 :] for place in range(len(values)))


def difference(before: str, after: str) -> str:
    """With a little of what is around it."""
    before, after = (" ".join(text.split()) for text in (before, after))
    start = max(0, common(before, after) - 40)
    end = max(0, common(before[::-1], after[::-1]) - 20)
    return f"`{before[start : len(before) - end]}` → `{after[start : len(after) - end]}`"


def common(one: str, other: str) -> int:
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))))
