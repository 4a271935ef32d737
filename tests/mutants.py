"""Small edits of a source, each of which ought to make a test fail: what :mod:`tests.mutation` draws from."""

import ast
import copy
import hashlib
import itertools
from dataclasses import dataclass

# ---------------------------------------------------------------- what changes in a node of the syntax tree

SWAPPED = {
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
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
}
SYMMETRIC = {"isinstance", "getattr", "hasattr", "setattr", "max", "min", "maximum", "minimum", "logaddexp", "equal"}
DIMS = {"0": "-1", "-1": "0"}  # all others become 0


def changed(node, **fields):
    """A shallow copy with some fields replaced."""
    made = copy.copy(node)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def exchanged(items, i):
    """A list with two neighbours exchanged."""
    return [*items[:i], items[i + 1], items[i], *items[i + 2 :]]


def of_compare(node):
    for i, op in enumerate(node.ops):
        for other in SWAPPED[type(op)]:
            yield node, changed(node, ops=[*node.ops[:i], other(), *node.ops[i + 1 :]])


def of_operator(node):
    operands = [node.left, node.right] if isinstance(node, ast.BinOp) else []
    if any(isinstance(o, ast.JoinedStr) or is_text_or_class(o) for o in operands):
        return
    for other in SWAPPED.get(type(node.op), ()):
        yield node, changed(node, op=other())
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Div | ast.Sub):
        yield node, ast.UnaryOp(ast.USub(), node)


def is_text_or_class(node):
    """Operands of ``"a" + b``, ``"%s" % c`` and ``Tensor | None``: no arithmetic."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str | None)
    return isinstance(node, ast.Name) and node.id[:1].isupper() and len(node.id) > 1


def of_unary(node):
    if isinstance(node.op, ast.USub | ast.Not):
        yield node, node.operand


def of_constant(node):
    if isinstance(node.value, bool):
        yield node, ast.Constant(not node.value)
    elif isinstance(node.value, int | float):
        yield node, ast.Constant(node.value + 1)
        yield node, ast.Constant(node.value - 1)


def of_test(node):
    for test in node.ifs if isinstance(node, ast.comprehension) else [node.test]:
        if not isinstance(test, ast.Compare | ast.UnaryOp):  # those have negations of their own
            yield test, ast.UnaryOp(ast.Not(), test)


def of_call(node):
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name == "detach":
        yield node, node.func.value
    for i, keyword in enumerate(node.keywords):
        yield node, changed(node, keywords=node.keywords[:i] + node.keywords[i + 1 :])
        if keyword.arg == "dim":
            yield keyword.value, ast.parse(DIMS.get(ast.unparse(keyword.value), "0"), mode="eval").body
    for i in range(len(node.args) - 1) if name not in SYMMETRIC else ():
        if not any(isinstance(a, ast.Starred) for a in node.args[i : i + 2]):
            yield node, changed(node, args=exchanged(node.args, i))


def of_return(node):
    if isinstance(node.value, ast.Tuple):
        for i in range(len(node.value.elts) - 1):
            yield node.value, changed(node.value, elts=exchanged(node.value.elts, i))


def of_statement(node):
    if not isinstance(node, ast.Expr) or isinstance(node.value, ast.Call):
        yield node, ast.Pass()


MUTATIONS = {
    ast.Compare: of_compare,
    ast.BoolOp: of_operator,
    ast.BinOp: of_operator,
    ast.UnaryOp: of_unary,
    ast.Constant: of_constant,
    ast.If: of_test,
    ast.While: of_test,
    ast.IfExp: of_test,
    ast.comprehension: of_test,
    ast.Call: of_call,
    ast.Return: of_return,
    ast.Raise: of_statement,
    ast.Expr: of_statement,
    ast.AugAssign: of_statement,
}

# ---------------------------------------------------------------- where, and who is asked


@dataclass(frozen=True)
class Mutant:
    """One edit: bytes ``start`` to ``end`` of a file become ``new``; tests of any of ``lines`` cover it."""

    path: str
    line: int
    column: int
    start: int
    end: int
    old: str
    new: str
    lines: range

    @property
    def name(self):
        return f"{self.path}:{self.line}:{self.column}: {self.old} → {self.new}"

    def applied(self, source):
        return source[: self.start] + self.new.encode() + source[self.end :]


def is_told(node):
    """Whether a statement tells somebody something: its words and numbers are no behaviour."""
    call = node.value if isinstance(node, ast.Expr) else None
    function = ast.unparse(call.func) if isinstance(call, ast.Call) else ""
    return isinstance(node, ast.Raise | ast.Assert) or function.startswith(("logger.", "warnings."))


def children(node):
    """Those that may change: no docstrings, annotations, decorators, messages, ``__all__``, parts of f-strings."""
    if isinstance(node, ast.JoinedStr) or is_told(node):
        return
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            is_all = isinstance(child, ast.Assign) and ast.unparse(child.targets[0]) == "__all__"
            if isinstance(child, ast.AST) and not is_all:
                yield child


def edits(node, whole, lines):
    """Pairs of a node and what it becomes, with the lines whose tests cover it."""
    if isinstance(node, ast.FunctionDef):
        lines = range(node.lineno, node.end_lineno + 1)  # its defaults are evaluated on import: whoever runs its body
    elif isinstance(node, ast.stmt) and lines != whole:
        body = getattr(node, "body", None)
        lines = range(node.lineno, body[0].lineno if body else node.end_lineno + 1)
    for old, new in MUTATIONS.get(type(node), lambda _: ())(node):
        yield old, new, lines
    for child in children(node):
        yield from edits(child, whole, lines)


def mutants_of(path, source):
    """All mutants of a file."""
    starts = [0, *itertools.accumulate(len(line) for line in source.splitlines(keepends=True))]
    whole = range(1, len(starts))
    for old, new, lines in edits(ast.parse(source), whole, whole):
        start, end = (
            starts[line - 1] + column
            for line, column in ((old.lineno, old.col_offset), (old.end_lineno, old.end_col_offset))
        )
        text = ast.unparse(ast.fix_missing_locations(new))
        text = f"({text})" if isinstance(new, ast.Compare | ast.BinOp | ast.BoolOp | ast.UnaryOp) else text
        yield Mutant(path, old.lineno, old.col_offset, start, end, ast.unparse(old), text, lines)


def in_order(sources, seed):
    """All mutants in an order of the seed's, that an edit of one file does not change for the others."""
    mutants = [mutant for path, source in sources.items() for mutant in mutants_of(path, source)]
    return sorted(mutants, key=lambda mutant: digest(f"{seed} {mutant.name}".encode()))


def digest(source):
    return hashlib.sha256(source).hexdigest()
