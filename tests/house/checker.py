"""The house rules of docs and DESIGN, read off the syntax tree: sizes, and things that this code base never does.

Every finding names file and line. What may import what is in `floors.py`. Run by test_house_rules.py, which also
plants each violation and expects it to be found.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MOST_FILE_LINES = 400
MOST_FUNCTION_LINES = 80
MOST_PARAMETERS = 10

RULES = (
    "file too long",
    "function too long",
    "too many parameters",
    "global",
    "module state",
    "environment",
    "print",
    "swallowed exception",
    "communication",
    "pickle",
    "import kernels",
    "floors",
    "torch",
)
MUTABLE_MAKERS = frozenset({"list", "dict", "set", "bytearray", "defaultdict", "deque", "Counter", "OrderedDict"})
MUTABLE_NODES = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
PICKLES = frozenset({"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"})
# The last is no part of the engine: what other engines' processes start from, which know nothing of ours.
MAY_COMMUNICATE = frozenset(
    {"parallel/groups.py", "parallel/collectives.py", "pipeline/links.py", "prove/peers/worker.py"}
)
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Finding(NamedTuple):
    """A broken rule: file (from the root), line, the rule's short name, and what to do."""

    path: str
    line: int
    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.rule}: {self.text}"


class Source(NamedTuple):
    """A parsed file; `path` is from the root, `inner` from megacode/ (empty for files elsewhere)."""

    path: str
    inner: str
    tree: ast.Module
    lines: int

    def found(self, node: ast.AST, rule: str, text: str) -> Finding:
        """A finding at `node`'s line."""
        assert rule in RULES, rule
        return Finding(self.path, getattr(node, "lineno", 1), rule, text)


def read_source(path: Path, root: Path) -> Source:
    """Parse a file below `root`. kernels/x.py counts as megacode/kernels/x.py, which is a link to it."""
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(root).as_posix()
    inner = name.removeprefix("megacode/") if name.startswith("megacode/") else ""
    return Source(name, name if name.startswith("kernels/") else inner, ast.parse(text, name), text.count("\n") + 1)


def check_sizes(source: Source) -> Iterator[Finding]:
    """Lines of the file and of each function, parameters of each function without self and cls.

    A Triton kernel's parameters are pointers, shapes and strides; they are not counted.
    """
    if source.lines - 1 > MOST_FILE_LINES:
        yield Finding(source.path, 1, "file too long", f"{source.lines - 1} lines, at most {MOST_FILE_LINES}; split it")
    for node in ast.walk(source.tree):
        if not isinstance(node, Function):
            continue
        lines = (node.end_lineno or node.lineno) - node.lineno + 1
        if lines > MOST_FUNCTION_LINES:
            text = f"{node.name} has {lines} lines, at most {MOST_FUNCTION_LINES}; split it"
            yield source.found(node, "function too long", text)
        count = _parameters(node)
        if count > MOST_PARAMETERS and not _is_triton(node):
            text = f"{node.name} has {count}, at most {MOST_PARAMETERS}; group them in a dataclass"
            yield source.found(node, "too many parameters", text)


def check_everywhere(source: Source) -> Iterator[Finding]:
    """What no file does, tests and scripts included: pickle in any form, and `kernels` under its bare name."""
    for node in ast.walk(source.tree):
        for module in _imported(node):
            if module.partition(".")[0] in PICKLES:
                yield source.found(node, "pickle", f"{module}: write JSON or safetensors")
            if module.partition(".")[0] == "kernels":
                yield source.found(node, "import kernels", "say megacode.kernels; the bare name is another package")
        if module_call := _dotted(node) if isinstance(node, ast.Attribute) else "":
            if module_call in ("torch.save", "torch.load"):
                yield source.found(node, "pickle", f"{module_call}: use safetensors")
        elif isinstance(node, ast.ImportFrom) and node.module == "torch":
            names = {alias.name for alias in node.names} & {"save", "load"}
            yield from (source.found(node, "pickle", f"torch.{name}: use safetensors") for name in sorted(names))
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle" and not _is_constant(node.value, False):
            yield source.found(node.value, "pickle", "allow_pickle: save plain arrays")


def check_package(source: Source) -> Iterator[Finding]:
    """What no file of megacode and kernels does, with the few places that may."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Global):
            yield source.found(node, "global", f"{', '.join(node.names)}: pass it by hand")
        if not source.inner.startswith("cli/") and _reads_environment(node):
            yield source.found(node, "environment", "read it in cli.py or launch/ and pass it on")
        if source.inner != "console.py" and isinstance(node, ast.Name) and node.id == "print":
            yield source.found(node, "print", "use megacode.console")
        if isinstance(node, ast.ExceptHandler) and _swallows(node):
            text = "catches everything and neither raises nor uses the exception; name the exceptions"
            yield source.found(node, "swallowed exception", text)
        if isinstance(node, ast.Call) and _dotted(node.func).endswith("suppress") and _any_broad(node.args):
            yield source.found(node, "swallowed exception", "suppress names the exceptions, not all of them")
        if source.inner not in MAY_COMMUNICATE and _communicates(node):
            text = f"torch.distributed belongs in {', '.join(sorted(MAY_COMMUNICATE))}"
            yield source.found(node, "communication", text)
    yield from _module_state(source, source.tree.body)


def _module_state(source: Source, body: list[ast.stmt]) -> Iterator[Finding]:
    """Assignments of a mutable container to a name at module level, inside `if`, `try` and `with` too."""
    for statement in body:
        for field in ("body", "orelse", "finalbody"):
            if isinstance(statement, ast.If | ast.Try | ast.With | ast.For | ast.While):
                yield from _module_state(source, getattr(statement, field, []))
        if not isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign) or statement.value is None:
            continue
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        names = [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
        if names != ["__all__"] and _is_mutable(statement.value):
            text = f"{', '.join(names)} is mutable; use a tuple, a frozenset or types.MappingProxyType"
            yield source.found(statement, "module state", text)


def _is_mutable(value: ast.expr) -> bool:
    if isinstance(value, ast.IfExp):
        return _is_mutable(value.body) or _is_mutable(value.orelse)
    if isinstance(value, ast.BoolOp):
        return any(_is_mutable(item) for item in value.values)
    if isinstance(value, ast.Tuple):
        return any(_is_mutable(item) for item in value.elts)
    if isinstance(value, ast.Call):
        maker = value.func.value if isinstance(value.func, ast.Subscript) else value.func
        return _dotted(maker).rpartition(".")[2] in MUTABLE_MAKERS
    return isinstance(value, MUTABLE_NODES)


def _parameters(node: Function) -> int:
    names = [one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    names += [one.arg for one in (node.args.vararg, node.args.kwarg) if one is not None]
    return len([name for name in names if name not in ("self", "cls")])


def _is_triton(node: Function) -> bool:
    makers = (one.func if isinstance(one, ast.Call) else one for one in node.decorator_list)
    return any(_dotted(maker) == "triton.jit" for maker in makers)


def _dotted(node: ast.AST) -> str:
    """`a.b.c` for a chain of names, else the empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        owner = _dotted(node.value)
        return f"{owner}.{node.attr}" if owner else ""
    return ""


def _is_constant(node: ast.expr, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _imported(node: ast.AST) -> list[str]:
    """Modules that an import statement, or import_module with a literal name, brings in."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module] if node.module and not node.level else []
    if isinstance(node, ast.Call) and _dotted(node.func).rpartition(".")[2] in ("import_module", "__import__"):
        return [one.value for one in node.args[:1] if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    return []


def _reads_environment(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom) and node.module == "os":
        return any(alias.name in ("environ", "environb", "getenv") for alias in node.names)
    return isinstance(node, ast.Attribute) and _dotted(node) in ("os.environ", "os.environb", "os.getenv")


def _communicates(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom) and node.module == "torch":
        return any(alias.name == "distributed" for alias in node.names)
    if isinstance(node, ast.Attribute):
        return _dotted(node) == "torch.distributed"
    return any(f"{module}.".startswith("torch.distributed.") for module in _imported(node))


def _any_broad(nodes: list[ast.expr]) -> bool:
    items = [item for node in nodes for item in (node.elts if isinstance(node, ast.Tuple) else [node])]
    return any(_dotted(item).rpartition(".")[2] in ("Exception", "BaseException") for item in items)


def _swallows(node: ast.ExceptHandler) -> bool:
    """Catches everything, and its body neither raises nor uses the exception it caught."""
    if node.type is not None and not _any_broad([node.type]):
        return False
    inside = [child for statement in node.body for child in ast.walk(statement)]
    uses = any(isinstance(child, ast.Name) and child.id == node.name for child in inside)
    return not uses and not any(isinstance(child, ast.Raise) for child in inside)
