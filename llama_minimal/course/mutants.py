"""Wrong answers by the hundred: small changes of a solution's syntax tree.

The idea is that of mutation testing (DeMillo, Lipton and Sayward 1978): a check that lets a changed solution pass has a
hole, or the change was none.
"""

import ast
import copy
import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

ARITHMETIC = {  # an operator, and those that are put in its place
    ast.Add: (ast.Sub, ast.Mult),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div, ast.Add),
    ast.Div: (ast.Mult, ast.FloorDiv),
    ast.FloorDiv: (ast.Div, ast.Mod),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.MatMult: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
}
COMPARED = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
}
FUNCTIONS = {  # names of functions and methods that are taken for each other
    **dict.fromkeys(("exp", "log", "sqrt"), ("exp", "log", "sqrt")),
    **dict.fromkeys(("sin", "cos"), ("sin", "cos")),
    **dict.fromkeys(("sum", "mean", "max", "min"), ("sum", "mean", "max", "min")),
    **dict.fromkeys(("var", "std"), ("var", "std")),
    **dict.fromkeys(("argmax", "argmin"), ("argmax", "argmin")),
    **dict.fromkeys(("cumsum", "cumprod"), ("cumsum", "cumprod")),
    **dict.fromkeys(("int", "round"), ("int", "round")),
    **dict.fromkeys(("zeros", "ones"), ("zeros", "ones")),
    **dict.fromkeys(("stack", "concatenate"), ("stack", "concatenate")),
    **dict.fromkeys(("maximum", "minimum"), ("maximum", "minimum")),
    **dict.fromkeys(("repeat", "tile"), ("repeat", "tile")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A changed solution, and what was changed."""

    source: str
    change: str


def mutants(source: str, count: int, seed: int = 0) -> list[Mutant]:
    """Change a solution in one place each, and in two where one does not give enough.

    Args:
        source: a function, or an expression.
        count: how many at most; all are different.
        seed: of the draw; the same seed gives the same mutants.
    """
    rng = random.Random(seed)
    tree = ast.parse(source)
    single = _places(tree)
    rng.shuffle(single)
    once = [_changed(tree, *place) for place in single]
    twice = (_again(*rng.choice(once), rng) for _ in range(2 * count)) if once else ()
    found = {ast.unparse(tree): ""}
    for changed, said in itertools.chain(once, twice):
        if len(found) > count:
            break
        found.setdefault(ast.unparse(changed), said)
    return [Mutant(source=text, change=said) for text, said in found.items() if said]


def _again(tree: ast.AST, said: str, rng: random.Random) -> tuple[ast.AST, str]:
    tree = ast.parse(ast.unparse(tree))
    places = _places(tree)
    if not places:
        return tree, said
    changed, second = _changed(tree, *rng.choice(places))
    return changed, f"{said}; {second}"


def _places(tree: ast.AST) -> list[tuple[int, ast.AST]]:
    """List the numbers of nodes with what may stand in their place."""
    names = sorted({argument.arg for argument in ast.walk(tree) if isinstance(argument, ast.arg)})
    return [(number, new) for number, node in enumerate(ast.walk(tree)) for new in _instead(node, names)]


def _changed(tree: ast.AST, number: int, new: ast.AST) -> tuple[ast.AST, str]:
    """Change a tree in one place, and say what was there and what is there now."""
    changed = copy.deepcopy(tree)
    target = next(itertools.islice(ast.walk(changed), number, None))
    said = f"{_shown(target)} → {_shown(new)}"
    return ast.fix_missing_locations(_Replace(target, new).visit(changed)), said


class _Replace(ast.NodeTransformer):
    def __init__(self, target: ast.AST, new: ast.AST) -> None:
        self.target, self.new = target, new

    def visit(self, node: ast.AST) -> ast.AST:
        return copy.deepcopy(self.new) if node is self.target else self.generic_visit(node)


def _shown(node: ast.AST) -> str:
    return " ".join(ast.unparse(node).split())


def _with(node: ast.AST, **fields: object) -> ast.AST:
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


def _instead(node: ast.AST, names: list[str]) -> Iterator[ast.AST]:
    """Give what may stand in the place of a node."""
    for kind, change in CHANGES.items():
        if isinstance(node, kind):
            yield from change(node)
    if isinstance(node, ast.BinOp | ast.Call) and not isinstance(getattr(node, "op", None), ast.BitAnd | ast.BitOr):
        yield ast.UnaryOp(op=ast.USub(), operand=node)
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in names and len(names) > 1:
        yield ast.Name(id=names[(names.index(node.id) + 1) % len(names)], ctx=ast.Load())


def _operation(node: ast.BinOp) -> Iterator[ast.AST]:
    for op in ARITHMETIC.get(type(node.op), ()):
        yield _with(node, op=op())
    if not isinstance(node.op, ast.Add | ast.Mult | ast.BitAnd | ast.BitOr):
        yield _with(node, left=node.right, right=node.left)
    yield node.left
    yield node.right


def _comparison(node: ast.Compare) -> Iterator[ast.AST]:
    for op in COMPARED.get(type(node.ops[0]), ()):
        yield _with(node, ops=[op()])


def _constant(node: ast.Constant) -> Iterator[ast.AST]:
    value = node.value
    if isinstance(value, bool):
        yield ast.Constant(value=not value)
    elif isinstance(value, int):
        yield from (ast.Constant(value=other) for other in (value + 1, value - 1, 2 * value))
    elif isinstance(value, float):
        yield from (ast.Constant(value=other) for other in (0.0, 2 * value, 10 * value))


def _keyword(node: ast.keyword) -> Iterator[ast.AST]:
    if node.arg == "axis":
        for value in (0, -1, -2, None):
            yield _with(node, value=ast.Constant(value=value))


def _call(node: ast.Call) -> Iterator[ast.AST]:
    called = node.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    for other in FUNCTIONS.get(name, ()):
        new = _with(called, attr=other) if isinstance(called, ast.Attribute) else _with(called, id=other)
        yield _with(node, func=new)
    if isinstance(called, ast.Attribute) and not (isinstance(called.value, ast.Name) and called.value.id == "np"):
        yield called.value  # the method is dropped
    elif node.args and not isinstance(node.args[0], ast.Starred):
        yield node.args[0]
    for i in range(len(node.args) - 1):
        swapped = [*node.args[:i], node.args[i + 1], node.args[i], *node.args[i + 2 :]]
        yield _with(node, args=swapped)
    for i in range(len(node.keywords)):
        yield _with(node, keywords=node.keywords[:i] + node.keywords[i + 1 :])


def _subscript(node: ast.Subscript) -> Iterator[ast.AST]:
    if isinstance(node.ctx, ast.Load):
        yield node.value


def _slice(node: ast.Slice) -> Iterator[ast.AST]:
    for end in ("lower", "upper", "step"):
        value = getattr(node, end)
        if value is not None:
            yield _with(node, **{end: None})
            yield _with(node, **{end: ast.BinOp(left=value, op=ast.Add(), right=ast.Constant(value=1))})


def _choice(node: ast.IfExp) -> Iterator[ast.AST]:
    yield node.body
    yield node.orelse
    yield _with(node, body=node.orelse, orelse=node.body)


def _assignment(node: ast.Assign) -> Iterator[ast.AST]:
    """Drop it, or write into the array instead of making a new one."""
    yield ast.Pass()
    value, target = node.value, node.targets[0]
    if isinstance(value, ast.BinOp) and isinstance(target, ast.Name) and ast.unparse(value.left) == target.id:
        yield ast.AugAssign(target=target, op=value.op, value=value.right)


CHANGES: dict[type | tuple[type, ...], Callable[..., Iterator[ast.AST]]] = {
    ast.BinOp: _operation,
    ast.UnaryOp: lambda node: iter([node.operand]),
    ast.Compare: _comparison,
    ast.Constant: _constant,
    ast.keyword: _keyword,
    ast.Call: _call,
    ast.Attribute: lambda node: iter([node.value] if node.attr == "T" else []),
    ast.Subscript: _subscript,
    ast.Slice: _slice,
    ast.IfExp: _choice,
    ast.comprehension: lambda node: iter([_with(node, ifs=[])] if node.ifs else []),
    ast.Assign: _assignment,
    ast.AugAssign: lambda node: iter([ast.Pass(), *(_with(node, op=op()) for op in ARITHMETIC.get(type(node.op), ()))]),
    ast.Expr: lambda node: iter([ast.Pass()] if isinstance(node.value, ast.Call) else []),
    ast.Return: lambda node: iter([ast.Expr(value=node.value)] if node.value else []),
}
