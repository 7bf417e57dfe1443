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
import re
import sys
from typing import Any

#: The private name under which a module finds its :class:`~easyedit_lifelong.bridge.runtime.Runtime`.
RUNTIME = "_easyedit_lifelong_runtime"

#: Calls that EasyEdit makes while it is imported, and that are the user's business.
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
            names.update((node.id, None) for t in targets for node in ast.walk(t) if isinstance(node, ast.Name))
    names.pop("*", None)
    return list(names)


class _Devices(ast.NodeTransformer):
    """The rules about devices: expressions, anywhere in a module."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Apply the rules to what is inside a node, then to the node."""
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
            case ast.Subscript(slice=ast.Constant(value=1), value=split) if found := _SPLIT_DEVICE.fullmatch(
                ast.unparse(split)
            ):
                return _call("index", ast.parse(found[1], mode="eval").body, at=node)
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
            result += [_guarded_import(alias, statement) for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom):
            result.append(_guarded_from(statement))
        else:
            result.append(statement)
    return result


def _is_side_effect(statement: ast.stmt) -> bool:
    match statement:
        case ast.Expr(value=ast.Call(func=function)):
            return _dotted(function) in SIDE_EFFECTS
        case ast.Assign(targets=[ast.Subscript(value=target), *_]):
            return _dotted(target) == "os.environ"
    return False


def _guarded_import(alias: ast.alias, at: ast.Import) -> ast.stmt:
    statement = ast.copy_location(ast.Import(names=[alias]), at)
    bound = alias.asname or alias.name.partition(".")[0]
    return _guarded(statement, alias.name, f"missing_import({_ERROR}, {alias.name!r}, {bound!r}, {bool(alias.asname)})")


def _guarded_from(statement: ast.ImportFrom) -> ast.stmt:
    # A star binds names that only the module knows; a module of EasyEdit's looks after itself.
    if statement.level or not statement.module or statement.names[0].name == "*":
        return statement
    names = tuple((alias.name, alias.asname or alias.name) for alias in statement.names)
    return _guarded(statement, statement.module, f"missing_from({_ERROR}, {statement.module!r}, {names!r})")


def _guarded(statement: ast.stmt, module: str, call: str) -> ast.stmt:
    """Return an import that calls the runtime if it fails; the import itself if it cannot fail."""
    if module.partition(".")[0] in {"easyeditor", *sys.stdlib_module_names}:
        return statement
    guard: Any = ast.parse(f"try: pass\nexcept Exception as {_ERROR}: {RUNTIME}.{call}").body[0]
    for node in ast.walk(guard):
        ast.copy_location(node, statement)
    guard.body = [statement]
    return guard


def _call(function: str, *arguments: ast.expr, at: ast.AST) -> ast.Call:
    runtime = ast.Name(RUNTIME, ast.Load())
    call = ast.Call(ast.Attribute(runtime, function, ast.Load()), list(arguments), [])
    return ast.fix_missing_locations(ast.copy_location(call, at))


def _dotted(node: ast.expr) -> str | None:
    """Return ``a.b.c`` for such an expression, None for any other."""
    text = ast.unparse(node) if isinstance(node, (ast.Name, ast.Attribute)) else ""
    return text if re.fullmatch(r"[\w.]+", text) else None
