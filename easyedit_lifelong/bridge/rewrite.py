"""Rewrite the source of EasyEdit's modules while they are imported.

Each rule repairs one habit of EasyEdit's that keeps it from running here. The file on disk stays as
it is, and so do the line numbers in tracebacks.

==========================================  ============================================================
EasyEdit's source                           why it is changed, and to what
==========================================  ============================================================
``f"cuda:{x}"``, ``"cuda:" + x``            nothing runs without CUDA -> the device that x means here
``y.to("cuda")``, ``y.cuda()``              the same -> the best device there is
``y.to(device)``, ``y.to(z.device)``        a bare number needs CUDA -> resolved; all else is untouched
``str(d).split(":")[1]``                    IndexError for ``cpu`` -> the index, or the name if none
``import x``, ``from x import y``           needs the packages of all methods -> placeholders for some
top-level calls of :data:`SIDE_EFFECTS`     reseed or reconfigure the user's process -> dropped
top-level ``os.environ[…] = …``             the same (``CUDA_LAUNCH_BLOCKING`` slows every GPU) -> dropped
==========================================  ============================================================
"""

from __future__ import annotations

import ast
import sys
from typing import Any, TypeVar

#: The private name under which a module finds its :class:`~easyedit_lifelong.bridge.runtime.Runtime`.
RUNTIME = "_easyedit_lifelong_runtime"

#: Calls that EasyEdit makes while it is imported, and that are the user's business.
SIDE_EFFECTS = {"logging.basicConfig", "random.seed", "np.random.seed", "torch.manual_seed", "seed_everything"}

_CUDA = "cuda:"
_ERROR = "_easyedit_lifelong_error"

Node = TypeVar("Node", bound=ast.AST)


def rewrite(source: bytes | str, filename: str = "<string>") -> ast.Module:
    """Parse a module's source and apply all rules.

    Raises:
        SyntaxError: the source isn't Python.
    """
    tree = ast.parse(source, filename)
    tree.body = _top_level(tree.body)
    return ast.fix_missing_locations(_Devices().visit(tree))


def defined_names(source: bytes | str) -> list[str]:
    """Return the names that a module's source binds at its top level, in order.

    Raises:
        SyntaxError: the source isn't Python.
    """
    names: dict[str, None] = {}
    for statement in ast.parse(source).body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names[statement.name] = None
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            bound = (alias.asname or alias.name.partition(".")[0] for alias in statement.names)
            names.update(dict.fromkeys(bound))
        elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            names.update((node.id, None) for t in targets for node in ast.walk(t) if isinstance(node, ast.Name))
    names.pop("*", None)
    return list(names)


class _Devices(ast.NodeTransformer):
    """The rules about devices: expressions, anywhere in a module."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        """``f"cuda:{x}"``."""
        self.generic_visit(node)
        if len(node.values) == 2 and _is_text(node.values[0], _CUDA):
            value = node.values[1]
            if isinstance(value, ast.FormattedValue) and value.format_spec is None:
                return _call("device", value.value, at=node)
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        """``"cuda:" + x``."""
        self.generic_visit(node)
        if isinstance(node.op, ast.Add) and _is_text(node.left, _CUDA):
            return _call("device", node.right, at=node)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """``y.cuda()``, ``y.to("cuda")``, ``y.to(device)`` and ``y.to(z.device)``."""
        self.generic_visit(node)
        if not isinstance(node.func, ast.Attribute) or node.keywords:
            return node
        if node.func.attr == "cuda" and not node.args and _dotted(node.func.value) != "torch":
            node.func.attr = "to"
            node.args = [_call("device", at=node)]
        elif node.func.attr == "to" and len(node.args) == 1:
            device = node.args[0]
            if _is_text(device, "cuda"):
                node.args = [_call("device", at=node)]
            elif (_dotted(device) or "").rpartition(".")[2] == "device":
                node.args = [_call("target", device, at=node)]
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        """``str(d).split(":")[1]``."""
        self.generic_visit(node)
        split = node.value
        if (
            isinstance(node.slice, ast.Constant)
            and node.slice.value == 1
            and isinstance(split, ast.Call)
            and isinstance(split.func, ast.Attribute)
            and split.func.attr == "split"
            and len(split.args) == 1
            and _is_text(split.args[0], ":")
            and isinstance(split.func.value, ast.Call)
            and _dotted(split.func.value.func) == "str"
            and len(split.func.value.args) == 1
            and (_dotted(split.func.value.args[0]) or "").endswith(".device")
        ):
            return _call("index", split.func.value.args[0], at=node)
        return node


def _top_level(body: list[ast.stmt]) -> list[ast.stmt]:
    """Apply the rules about statements at a module's top level.

    Imports inside functions and ``try`` statements stay: they fail where they are used, or handled.
    """
    result: list[ast.stmt] = []
    for statement in body:
        if _is_side_effect(statement):
            result.append(ast.copy_location(ast.Pass(), statement))
        elif isinstance(statement, ast.Import):
            for alias in statement.names:
                result.append(_guarded_import(alias, statement))
        elif isinstance(statement, ast.ImportFrom):
            result.append(_guarded_from(statement))
        else:
            result.append(statement)
    return result


def _is_side_effect(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        return _dotted(statement.value.func) in SIDE_EFFECTS
    return (
        isinstance(statement, ast.Assign)
        and isinstance(statement.targets[0], ast.Subscript)
        and _dotted(statement.targets[0].value) == "os.environ"
    )


def _guarded_import(alias: ast.alias, at: ast.Import) -> ast.stmt:
    statement = _like(ast.Import(names=[alias]), at)
    if _always_there(alias.name):
        return statement
    bound = alias.asname or alias.name.partition(".")[0]
    return _guarded(statement, "missing_import", alias.name, bound, alias.asname is not None)


def _guarded_from(statement: ast.ImportFrom) -> ast.stmt:
    # A star binds names that only the module knows; a module of EasyEdit's looks after itself.
    if statement.level or not statement.module or statement.names[0].name == "*":
        return statement
    if _always_there(statement.module):
        return statement
    names = tuple((alias.name, alias.asname or alias.name) for alias in statement.names)
    return _guarded(statement, "missing_from", statement.module, names)


def _guarded(statement: ast.stmt, handler: str, *arguments: Any) -> ast.stmt:
    values = [_like(ast.Constant(value), statement) for value in arguments]
    error = _like(ast.Name(_ERROR, ast.Load()), statement)
    call = _call(handler, error, *values, at=statement)
    catch = ast.ExceptHandler(
        type=_like(ast.Name("Exception", ast.Load()), statement),
        name=_ERROR,
        body=[_like(ast.Expr(call), statement)],
    )
    handlers = [_like(catch, statement)]
    return _like(ast.Try(body=[statement], handlers=handlers, orelse=[], finalbody=[]), statement)


def _always_there(module: str) -> bool:
    top = module.partition(".")[0]
    return top == "easyeditor" or top in sys.stdlib_module_names


def _call(function: str, *arguments: ast.expr, at: ast.AST) -> ast.Call:
    runtime = _like(ast.Name(RUNTIME, ast.Load()), at)
    attribute = _like(ast.Attribute(runtime, function, ast.Load()), at)
    return _like(ast.Call(attribute, list(arguments), []), at)


def _like(node: Node, at: ast.AST) -> Node:
    return ast.fix_missing_locations(ast.copy_location(node, at))


def _is_text(node: ast.expr, text: str) -> bool:
    return isinstance(node, ast.Constant) and node.value == text


def _dotted(node: ast.expr) -> str | None:
    """Return ``a.b.c`` for such an expression, None for any other."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        prefix = _dotted(node.value)
        return f"{prefix}.{node.attr}" if prefix else None
    return None
