"""Sizes and conditions as the table writes them: a small part of Python's expressions, over the fields of a config.

    num_attention_heads * head_dim    i >= first_k_dense_replace    4 * n_embd if n_inner is None else n_inner

Names are fields, `text_config.hidden_size` is one of a config inside the config; `i`, `j`, `k` count layers, experts.
"""

from __future__ import annotations

import ast
import operator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Facts: TypeAlias = "Mapping[str, Any]"
Expression: TypeAlias = "Callable[[Facts], Any]"

UNDECIDED = (TypeError, ValueError, ArithmeticError, LookupError)
"""What evaluating may raise: a field that is not there, or a value that an expression was not proven with."""

_OPERATORS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda one, several: one in several,
    ast.NotIn: lambda one, several: one not in several,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {"len": len, "sum": sum, "min": min, "max": max}


@lru_cache(maxsize=4096)
def compiled(text: str) -> Expression:
    """What computes an expression. Raises ValueError for anything but the part of Python that is meant."""
    try:
        return _compiled(ast.parse(text, mode="eval").body)
    except SyntaxError as error:
        raise ValueError(f"{text!r} is not an expression: {error}") from None


def evaluate(text: str | int, facts: Facts) -> Any:
    """The value of an expression. Raises what is in UNDECIDED.

    >>> evaluate("heads * 2 if dim is None else dim // 2", {"heads": 3, "dim": None})
    6
    """
    return text if isinstance(text, int) else compiled(text)(facts)


def names_in(text: str | int) -> frozenset[str]:
    """The fields and counters that an expression uses.

    >>> sorted(names_in("vision_config.depths[i] * len(x)"))
    ['i', 'vision_config.depths', 'x']
    """
    return frozenset() if isinstance(text, int) else _names(ast.parse(text, mode="eval").body)


def _names(node: ast.AST) -> frozenset[str]:
    if isinstance(node, (ast.Name, ast.Attribute)):
        return frozenset({_dotted(node)})
    children = node.args if isinstance(node, ast.Call) else ast.iter_child_nodes(node)
    return frozenset[str]().union(*map(_names, children))


def _dotted(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ast.unparse(node)


def _compiled(node: ast.expr) -> Expression:
    match node:
        case ast.Constant(value=value):
            return lambda facts: value
        case ast.Name() | ast.Attribute():
            name = _dotted(node)
            return lambda facts: facts[name]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _binary(op, left, right)
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _OPERATORS:
            return _binary(op, left, right)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            inner = _compiled(operand)
            return lambda facts: not inner(facts)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _compiled(operand)
            return lambda facts: -inner(facts)
        case ast.BoolOp(op=op, values=values):
            return _logical(isinstance(op, ast.And), [_compiled(value) for value in values])
        case ast.IfExp(test=test, body=body, orelse=orelse):
            condition, yes, no = _compiled(test), _compiled(body), _compiled(orelse)
            return lambda facts: yes(facts) if condition(facts) else no(facts)
        case ast.Subscript(value=value, slice=index):
            several, at = _compiled(value), _compiled(index)
            return lambda facts: several(facts)[at(facts)]
        case ast.Call(func=ast.Name(id=function), args=arguments, keywords=[]) if function in _FUNCTIONS:
            call, given = _FUNCTIONS[function], [_compiled(argument) for argument in arguments]
            return lambda facts: call(*(argument(facts) for argument in given))
    raise ValueError(f"{ast.unparse(node)!r} is not in the table's language")


def _binary(op: ast.AST, left: ast.expr, right: ast.expr) -> Expression:
    operation, one, other = _OPERATORS[type(op)], _compiled(left), _compiled(right)
    return lambda facts: operation(one(facts), other(facts))


def _logical(every: bool, parts: list[Expression]) -> Expression:
    if every:
        return lambda facts: all(part(facts) for part in parts)
    return lambda facts: any(part(facts) for part in parts)
