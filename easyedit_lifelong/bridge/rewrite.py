"""Rewrite the source of EasyEdit's modules while they are imported.

Each rule repairs code of EasyEdit that fails on this machine or has unwanted effects. Files on disk and line numbers in
tracebacks don't change.

==========================================  ============================================================================
EasyEdit's source                           problem -> replacement
==========================================  ============================================================================
``f"cuda:{x}"``, ``"cuda:" + x``            fails without CUDA -> the device that x stands for on this machine
``y.to("cuda")``, ``y.cuda()``              fails without CUDA -> the best available device
``y.to(device)``, ``y.to(z.device)``        a number as device needs CUDA -> the resolved device; others are unchanged
``str(d).split(":")[1]``                    IndexError for ``cpu`` -> the index, or the name if there is no index
``import x``, ``from x import y``           needs the packages of all methods -> a placeholder if the import fails
top-level calls of :data:`SIDE_EFFECTS`     change the user's random state or logging -> removed
top-level ``os.environ[…] = …``             changes the user's process (``CUDA_LAUNCH_BLOCKING`` is slow) -> removed
==========================================  ============================================================================
"""

from __future__ import annotations

import ast
import re
import sys
from typing import Any

#: The name of a rewritten module's :class:`~easyedit_lifelong.bridge.runtime.Runtime` in its namespace.
RUNTIME = "_easyedit_lifelong_runtime"

#: Functions that EasyEdit calls while it is imported, with effects on the whole process.
SIDE_EFFECTS = {"logging.basicConfig", "random.seed", "np.random.seed", "torch.manual_seed", "seed_everything"}

_ERROR = "_easyedit_lifelong_error"
_SPLIT_DEVICE = re.compile(r"str\(([\w.]+\.device)\)\.split\(':'\)")


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
            nodes = [node for target in targets for node in ast.walk(target)]
            names.update((node.id, None) for node in nodes if isinstance(node, ast.Name))
    names.pop("*", None)
    return list(names)


class _Devices(ast.NodeTransformer):
    """Applies the rules about devices, to expressions anywhere in a module."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Apply the rules to the children of a node, then to the node."""
        super().generic_visit(node)
        match node:
            case ast.JoinedStr(values=[ast.Constant(value="cuda:"), ast.FormattedValue(value=index, format_spec=None)]):
                return _call("device", index, at=node)
            case ast.BinOp(left=ast.Constant(value="cuda:"), op=ast.Add(), right=index):
                return _call("device", index, at=node)
            case ast.Call(func=ast.Attribute(attr="cuda", value=owner) as method, args=[], keywords=[]):
                if _dotted(owner) != "torch":
                    method.attr = "to"
                    node.args = [_call("device", at=node)]
            case ast.Call(func=ast.Attribute(attr="to"), args=[ast.Constant(value="cuda")], keywords=[]):
                node.args = [_call("device", at=node)]
            case ast.Call(func=ast.Attribute(attr="to"), args=[device], keywords=[]):
                if (_dotted(device) or "").rpartition(".")[2] == "device":
                    node.args = [_call("target", device, at=node)]
            case ast.Subscript(slice=ast.Constant(value=1), value=split) if match := _SPLIT_DEVICE.fullmatch(
                ast.unparse(split)
            ):
                return _call("index", ast.parse(match[1], mode="eval").body, at=node)
        return node


def _top_level(body: list[ast.stmt]) -> list[ast.stmt]:
    """Apply the rules about statements at a module's top level.

    Imports inside functions and ``try`` statements are not changed: their errors appear when the function is called, or
    EasyEdit handles them.
    """
    result: list[ast.stmt] = []
    for statement in body:
        if _is_side_effect(statement):
            result.append(ast.copy_location(ast.Pass(), statement))
        elif isinstance(statement, ast.Import):
            result += [_guarded_import(alias, statement) for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom):
            result.append(_guarded_from(statement))
        else:
            result.append(statement)
    return result


def _is_side_effect(statement: ast.stmt) -> bool:
    """Return whether a statement calls a function of :data:`SIDE_EFFECTS` or sets an environment variable."""
    match statement:
        case ast.Expr(value=ast.Call(func=function)):
            return _dotted(function) in SIDE_EFFECTS
        case ast.Assign(targets=[ast.Subscript(value=target), *_]):
            return _dotted(target) == "os.environ"
    return False


def _guarded_import(alias: ast.alias, at: ast.Import) -> ast.stmt:
    """Return ``import alias`` that binds a placeholder if it fails."""
    statement = ast.copy_location(ast.Import(names=[alias]), at)
    bound = alias.asname or alias.name.partition(".")[0]
    return _guarded(statement, alias.name, f"missing_import({_ERROR}, {alias.name!r}, {bound!r}, {bool(alias.asname)})")


def _guarded_from(statement: ast.ImportFrom) -> ast.stmt:
    """Return ``from module import …`` that binds placeholders if it fails."""
    # The names of a star import are unknown here. A relative import imports a module of EasyEdit, also rewritten.
    if statement.level or not statement.module or statement.names[0].name == "*":
        return statement
    names = tuple((alias.name, alias.asname or alias.name) for alias in statement.names)
    return _guarded(statement, statement.module, f"missing_from({_ERROR}, {statement.module!r}, {names!r})")


def _guarded(statement: ast.stmt, module: str, call: str) -> ast.stmt:
    """Return an import in a ``try`` statement that calls the runtime if it fails; unchanged if it can't fail."""
    if module.partition(".")[0] in {"easyeditor", *sys.stdlib_module_names}:
        return statement
    guard: Any = ast.parse(f"try: pass\nexcept Exception as {_ERROR}: {RUNTIME}.{call}").body[0]
    for node in ast.walk(guard):
        ast.copy_location(node, statement)
    guard.body = [statement]
    return guard


def _call(function: str, *arguments: ast.expr, at: ast.AST) -> ast.Call:
    """Return a call of a function of the runtime, at the position of another node."""
    runtime = ast.Name(RUNTIME, ast.Load())
    call = ast.Call(ast.Attribute(runtime, function, ast.Load()), list(arguments), [])
    return ast.fix_missing_locations(ast.copy_location(call, at))


def _dotted(node: ast.expr) -> str | None:
    """Return the source of a dotted name such as ``a.b.c``; None for any other expression."""
    text = ast.unparse(node) if isinstance(node, (ast.Name, ast.Attribute)) else ""
    return text if re.fullmatch(r"[\w.]+", text) else None
