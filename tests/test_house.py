"""The house rules that a machine can check: who imports whom, how long a file may grow, what never appears.

Each rule is a function from a path and a source text to complaints. It runs over the whole tree, and over the smallest
text that breaks it: a guard that cannot fail guards nothing.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOP = {"client", "common", "deploy", "proto", "server", "tests"}
HIDDEN = {".ci", ".github"}
PACKAGES = {"common/pleat": "pleat", "server/pleat_server": "pleat_server", "client/pleat_client": "pleat_client"}
GENERATED = "common/pleat/exchange/pb/"
LONGEST_FILE, LONGEST_BODY = 300, 40

# Who may import what is dear or foreign: path prefixes, relative to the root.
ALLOWED = {
    "torch": (
        "client/pleat_client/accelerator.py",
        "common/pleat/nets/",
        "client/pleat_client/trainer.py",
        "client/pleat_client/objectives.py",
        "client/pleat_client/flat.py",
        "client/pleat_client/gates.py",
        "client/pleat_client/scaler.py",
        "client/pleat_client/statistics.py",
        "client/pleat_client/worker.py",
        "client/pleat_client/probe/",  # only of a process that has imported it already
        "server/pleat_server/evaluate.py",
        "server/pleat_server/formats.py",
        "server/pleat_server/sources.py",  # torchvision's data sets
        "server/pleat_server/bench/",
    ),
    "torchvision": ("server/pleat_server/sources.py",),
    "google": ("common/pleat/exchange/", "client/pleat_client/link.py", "server/pleat_server/link/"),
    "grpc": ("common/pleat/exchange/pb/", "client/pleat_client/link", "server/pleat_server/link/"),
    "flwr": (
        "client/pleat_client/flower_app.py",
        "server/pleat_server/strategy.py",
        "server/pleat_server/flower_app.py",
        "server/pleat_server/link/grid.py",
        "server/pleat_server/link/flower_carrier.py",
        "server/pleat_server/simulate/ray.py",
        "server/pleat_server/bench/",
    ),
    "pleat_client": (
        "client/",
        "server/pleat_server/simulate/",
        "server/pleat_server/demo.py",
        "server/pleat_server/cli/demo.py",
        "server/pleat_server/bench/",
    ),
    "pleat_server": ("server/",),
}
# Inside `pleat`, a module may import those of its own level and below.
LEVELS = ("params", "modelmap", "elastic", "codec", "exchange")
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
SINCE_311 = {
    "asyncio": {"TaskGroup", "timeout", "timeout_at", "Runner", "Barrier"},
    "contextlib": {"chdir"},
    "datetime": {"UTC"},
    "enum": {"StrEnum", "ReprEnum", "verify", "member", "nonmember"},
    "hashlib": {"file_digest"},
    "itertools": {"batched"},
    "typing": {"Self", "Never", "assert_never", "assert_type", "LiteralString", "Required", "NotRequired", "Unpack",
               "TypeVarTuple", "override", "reveal_type", "dataclass_transform"},
    "builtins": {"ExceptionGroup", "BaseExceptionGroup"},
}  # fmt: skip


def sources(*folders: str) -> Iterator[tuple[str, str]]:
    """(path relative to the root, text) of every Python file that we wrote."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if not name.startswith(GENERATED):
                yield name, path.read_text(encoding="utf-8")


def imports(path: str, text: str, top_level: bool = False) -> Iterator[tuple[int, str]]:
    """(line, absolute name) of everything imported; `from a import b` yields both a and a.b."""
    tree = ast.parse(text)
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                own = module_of(path).split(".")
                own = own if path.endswith("__init__.py") else own[:-1]
                base = ".".join([*own[: len(own) - node.level + 1], *([base] if base else [])])
            yield node.lineno, base
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def module_of(path: str) -> str:
    """pleat.elastic.fold for common/pleat/elastic/fold.py."""
    return path.partition("/")[2].removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def foreign_imports(path: str, text: str) -> list[str]:
    """Imports of dear or foreign packages outside the files named for them."""
    out = []
    for line, name in imports(path, text):
        package = name.split(".")[0]
        allowed = ALLOWED.get(package)
        if allowed is not None and not path.startswith(allowed):
            out.append(f"{path}:{line} imports {name}")
    return out


def upward_imports(path: str, text: str) -> list[str]:
    """Imports inside `pleat` from a lower level to a higher one."""
    own = level(module_of(path))
    return [
        f"{path}:{line} imports {name}, which stands above it"
        for line, name in imports(path, text)
        if own is not None and (other := level(name)) is not None and other > own
    ]


def level(module: str) -> int | None:
    parts = module.split(".")
    return LEVELS.index(parts[1]) if parts[0] == "pleat" and len(parts) > 1 and parts[1] in LEVELS else None


def dear_optimisers(path: str, text: str) -> list[str]:
    """torch.optim (70 MB at first use), whether imported or reached through an attribute."""
    named = [f"{path}:{line} imports {name}" for line, name in imports(path, text) if name.startswith("torch.optim")]
    reached = [
        f"{path}:{node.lineno} uses torch.optim"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("torch.optim")
    ]
    return [*named, *reached]


def pickles(path: str, text: str) -> list[str]:
    """Anything that can run code hidden in data."""
    out = [f"{path}:{line} imports {name}" for line, name in imports(path, text) if name.split(".")[0] in PICKLES]
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        loads = any(k.arg == "allow_pickle" and not _is(k.value, False) for k in node.keywords)
        if called in ("eval", "exec", "torch.load", "torch.save") or loads:
            out.append(f"{path}:{node.lineno} calls {called}")
    return out


def _is(node: ast.expr, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def overgrown(path: str, text: str) -> list[str]:
    """Files and function bodies that want to be two."""
    out = [f"{path}: {n} lines, at most {LONGEST_FILE}"] if (n := len(text.splitlines())) > LONGEST_FILE else []
    lines = text.splitlines()
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    sizes = {f"{path}:{f.lineno} {f.name}": code_lines(f, lines) for f in functions}
    return [*out, *(f"{f}: {n} lines of code, at most {LONGEST_BODY}" for f, n in sizes.items() if n > LONGEST_BODY)]


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> int:
    """Lines of a function's body but for its docstring, comments and blank lines."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    spans = lines[body[0].lineno - 1 : body[-1].end_lineno] if body else []
    return sum(1 for line in spans if line.strip() and not line.strip().startswith("#"))


def unexplained(path: str, text: str) -> list[str]:
    """Modules that do not say what they promise, and rooms for whatever has no place."""
    out = [] if ast.get_docstring(ast.parse(text)) else [f"{path} has no docstring"]
    return [*out, f"{path}: name it for what it holds"] if Path(path).stem in ("utils", "helpers", "misc") else out


def too_new(path: str, text: str) -> list[str]:
    """What Python 3.10, which Jetsons have, cannot parse or does not have."""
    try:
        tree = ast.parse(text, feature_version=(3, 10))
    except SyntaxError as error:
        return [f"{path}:{error.lineno} does not parse on Python 3.10: {error.msg}"]
    out = []
    guarded = {id(n) for branch in ast.walk(tree) if _asks_version(branch) for n in ast.walk(branch)}
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.TryStar):
            out.append(f"{path}:{node.lineno} except* needs Python 3.11")
        elif isinstance(node, ast.Import) and any(a.name == "tomllib" for a in node.names):
            out.append(f"{path}:{node.lineno} tomllib needs Python 3.11")
        elif isinstance(node, ast.ImportFrom):
            new = SINCE_311.get(node.module or "", set()) & {a.name for a in node.names}
            out += [f"{path}:{node.lineno} {node.module}.{name} needs Python 3.11" for name in sorted(new)]
        elif isinstance(node, ast.Attribute) and node.attr in SINCE_311.get(ast.unparse(node.value), set()):
            out.append(f"{path}:{node.lineno} {ast.unparse(node)} needs Python 3.11")
        elif isinstance(node, ast.Name) and node.id in SINCE_311["builtins"]:
            out.append(f"{path}:{node.lineno} {node.id} needs Python 3.11")
    return out


def _asks_version(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "sys.version_info" in ast.unparse(node.test)


Rule = Callable[[str, str], list[str]]
CODE = ("common", "server", "client")
RULES: dict[str, tuple[Rule, tuple[str, ...]]] = {
    "foreign imports": (foreign_imports, CODE),
    "upward imports": (upward_imports, ("common",)),
    "dear optimisers": (dear_optimisers, CODE),
    "pickles": (pickles, CODE),
    "overgrown": (overgrown, CODE),
    "unexplained": (unexplained, (*CODE, "tests")),
    "too new for 3.10": (too_new, ("common", "client")),
}

BROKEN: list[tuple[Rule, str, str]] = [
    (foreign_imports, "common/pleat/elastic/fold.py", "import torch"),
    (foreign_imports, "common/pleat/elastic/fold.py", "def f():\n    from torch import nn"),
    (foreign_imports, "client/pleat_client/daemon.py", "from pleat_server.plan import cost"),
    (foreign_imports, "client/pleat_client/task.py", "import flwr"),
    (foreign_imports, "server/pleat_server/loop.py", "from pleat_client import task"),
    (foreign_imports, "common/pleat/codec/frame.py", "import google.protobuf"),
    (foreign_imports, "common/pleat/shard.py", "from pleat_client.store import Store"),
    (upward_imports, "common/pleat/elastic/fold.py", "from pleat.codec.frame import peek"),
    (upward_imports, "common/pleat/params.py", "from pleat import modelmap"),
    (dear_optimisers, "client/pleat_client/trainer.py", "from torch.optim import SGD"),
    (dear_optimisers, "client/pleat_client/trainer.py", "import torch\nx = torch.optim.SGD"),
    (pickles, "common/pleat/disk.py", "import pickle"),
    (pickles, "common/pleat/disk.py", "np.load(f, allow_pickle=True)"),
    (pickles, "common/pleat/disk.py", "torch.load(f)"),
    (overgrown, "server/pleat_server/loop.py", "x = 1\n" * 301),
    (overgrown, "server/pleat_server/loop.py", "def f():\n" + "    x = 1\n" * 41),
    (unexplained, "server/pleat_server/loop.py", "x = 1"),
    (unexplained, "server/pleat_server/utils.py", '"""What it promises."""'),
    (too_new, "client/pleat_client/daemon.py", "try:\n    x\nexcept* OSError:\n    y"),
    (too_new, "client/pleat_client/daemon.py", "import tomllib"),
    (too_new, "client/pleat_client/daemon.py", "from enum import StrEnum"),
    (too_new, "client/pleat_client/daemon.py", "import asyncio\nasyncio.timeout(1)"),
    (too_new, "client/pleat_client/daemon.py", "raise ExceptionGroup('x', [])"),
]


@pytest.mark.parametrize("name", RULES)
def test_the_tree_keeps_the_rule(name: str) -> None:
    rule, folders = RULES[name]
    complaints = [c for path, text in sources(*folders) for c in rule(path, text)]
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize(
    ("rule", "path", "text"), BROKEN, ids=[f"{r.__name__}-{i}" for i, (r, *_) in enumerate(BROKEN)]
)
def test_every_rule_notices_what_breaks_it(rule: Rule, path: str, text: str) -> None:
    assert rule(path, text)


def test_an_import_that_asks_the_version_first_is_fine_on_3_10() -> None:
    text = "import sys\nif sys.version_info >= (3, 11):\n    import tomllib\nelse:\n    import tomli as tomllib"
    assert not too_new("client/pleat_client/config.py", text)


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    graph = {module_of(p): set[str]() for p, _ in sources(*CODE)}
    for path, text in sources(*CODE):
        wanted = {name for _, name in imports(path, text, top_level=True)} & graph.keys()
        # `from a import b` needs the module a.b alone where there is one
        graph[module_of(path)] = {w for w in wanted if not any(o.startswith(f"{w}.") for o in wanted)} - {
            module_of(path)
        }
    assert circles(graph) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) != []


def circles(graph: dict[str, set[str]]) -> list[str]:
    """What is left after taking away, again and again, every module that imports nothing that is left."""
    left = dict(graph)
    while free := [m for m, wanted in left.items() if not wanted & left.keys()]:
        for module in free:
            del left[module]
    return sorted(left)


def test_nothing_stands_at_the_top_but_the_six_folders() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode != 0:
        pytest.skip("not a git checkout")
    folders = {name.split("/")[0] for name in tracked.stdout.splitlines() if "/" in name}
    assert folders - HIDDEN <= TOP


@pytest.mark.parametrize("folder", sorted(TOP))
def test_every_top_folder_says_what_it_is(folder: str) -> None:
    assert (ROOT / folder / "README.md").stat().st_size > 100
    assert not (ROOT / folder / "__init__.py").exists(), "nothing called server, client or common is ever installed"


def test_the_daemon_runs_without_torch_and_flower() -> None:
    program = "import sys, pleat_client.cli; print(sorted(m for m in ('torch', 'flwr') if m in sys.modules))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_help_is_shown_without_torch_grpc_or_matplotlib() -> None:
    program = (
        "import sys, pleat_server.cli as c; c.main(['serve', '--help']);"
        "print(sorted(m for m in ('torch', 'grpc', 'matplotlib', 'flwr', 'numpy') if m in sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip().splitlines()[-1] == "[]"
