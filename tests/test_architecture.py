"""The house rules that a parser can check: import directions, where optional packages live, sizes, docstrings."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "spec_engine"
FILES = sorted(PACKAGE.rglob("*.py"))

# A module may import from lower layers and from its own. The longest matching name counts.
LAYERS = {
    "errors": 0,
    "onednn": 0,
    "frozen": 0,
    "tables": 0,
    "config": 0,
    "metrics": 0,
    "events": 0,
    "tree": 1,
    "tree_tensors": 1,
    "gumbel": 1,
    "sampling": 1,
    "verify": 1,
    "retrieval": 1,
    "plain_steps": 1,
    "level_costs": 1,
    "pass_costs": 1,
    "pacer": 1,
    "controller": 1,
    "stopping": 1,
    "attention": 1,
    "cache": 1,
    "documents": 1,
    "model": 2,
    "drafters": 3,
    "answer": 4,
    "engine": 4,
    "loading": 4,
    "prefixes": 4,
    "needs": 4,
    "dropin": 4,
    "chat": 5,
    "ui": 6,
    "bench": 6,
    "train": 6,
    "doctor": 6,
    "cli": 7,
    "cli_bench": 7,
    "cli_options": 7,
    "cli_train": 7,
    "__main__": 7,
    "": 7,  # spec_engine/__init__.py re-exports public names
}
FRONT_DOORS = {"ui", "bench", "train"}
WITHOUT_TORCH = {"errors", "tables", "frozen", "config", "metrics", "events", "documents", "stopping"}

# Optional or heavy packages and the only places that may import them.
HOMES = {
    "gradio": {"ui"},
    "bitsandbytes": {"model.load"},
    "flash_attn": {"attention.flash"},
    "triton": {"attention.triton", "model.kernels", "model.likeliest_kernels", "model.streamed"},
    "transformers": {"model", "drafters", "train", "bench.peers", "bench.shapes", "dropin"},
    "tokenizers": {"model", "drafters", "train"},
    "huggingface_hub": {"model", "drafters", "train"},
    "pypdfium2": {"documents"},
    "rapidocr": {"documents.ocr"},
    "cv2": {"documents.ocr"},
    "docx": {"documents"},
    "pptx": {"documents"},
}
MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 60
MAX_ARGUMENTS = 6


def module_of(path: Path) -> str:
    """Dotted name below the package; a folder's ``__init__`` is the folder."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


def layer_of(module: str) -> int:
    """The layer of a module by its first part."""
    name = module.split(".")[0]
    assert name in LAYERS, f"spec_engine.{module} has no layer; give it one in this test and in the design"
    return LAYERS[name]


def imports_of(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every imported module with its line, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}"
            module = node.module or ""
            yield module, node.lineno
            if module == "spec_engine":
                for alias in node.names:
                    yield f"spec_engine.{alias.name}", node.lineno


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def functions_of(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def by_name(path: Path) -> str:
    return module_of(path) or "spec_engine"


each_file = pytest.mark.parametrize("path", FILES, ids=by_name)


def test_there_is_something_to_check() -> None:
    assert len(FILES) > 20


@each_file
def test_imports_point_downwards(path: Path) -> None:
    module = module_of(path)
    top = module.split(".")[0]
    for imported, line in imports_of(parse(path)):
        if not imported.startswith("spec_engine."):
            continue
        other = imported.removeprefix("spec_engine.")
        if not (PACKAGE / other.split(".")[0]).exists() and not (PACKAGE / f"{other.split('.')[0]}.py").exists():
            continue  # a name of spec_engine itself, such as __version__
        other_top = other.split(".")[0]
        assert layer_of(other) <= layer_of(module), f"{path.name}:{line} imports upwards: {imported}"
        if {top, other_top} <= FRONT_DOORS:
            assert top == other_top, f"{path.name}:{line}: front doors never import one another ({imported})"
        if top == "documents":
            assert other_top == "documents" or layer_of(other) == 0, f"{path.name}:{line} imports {imported}"


@each_file
def test_optional_packages_stay_at_home(path: Path) -> None:
    module = module_of(path)
    for imported, line in imports_of(parse(path)):
        homes = HOMES.get(imported.split(".")[0])
        is_home = homes is None or any(module == home or module.startswith(f"{home}.") for home in homes)
        assert is_home, f"{path.name}:{line} imports {imported}, which only {sorted(homes or ())} may"


@each_file
def test_light_modules_do_without_torch(path: Path) -> None:
    if module_of(path).split(".")[0] in WITHOUT_TORCH:
        for imported, line in imports_of(parse(path)):
            assert imported.split(".")[0] != "torch", f"{path.name}:{line} imports torch"


@each_file
def test_no_imports_of_ours_inside_functions(path: Path) -> None:
    for function in functions_of(parse(path)):
        for node in ast.walk(function):
            if isinstance(node, ast.ImportFrom | ast.Import):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                assert not any(name.startswith("spec_engine") for name in names), f"{path.name}:{node.lineno}"


@each_file
def test_sizes(path: Path) -> None:
    num_lines = len(path.read_text(encoding="utf-8").splitlines())
    assert num_lines <= MAX_FILE_LINES, f"{path} has {num_lines} lines"
    for function in functions_of(parse(path)):
        length = (function.end_lineno or function.lineno) - function.lineno + 1
        assert length <= MAX_FUNCTION_LINES, f"{path.name}: {function.name} has {length} lines"
        arguments = function.args
        names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        num_arguments = len([name for name in names if name not in ("self", "cls")])
        if not _is_given_by_transformers(function) and not _is_kernel(function):
            assert num_arguments <= MAX_ARGUMENTS, f"{path.name}: {function.name} has {num_arguments} arguments"


def _is_kernel(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether it runs on a GPU, where pointers and strides are all that can be handed over."""
    return any("triton.jit" in ast.unparse(decorator) for decorator in function.decorator_list)


def _is_given_by_transformers(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """An attention function's signature is the registry's, recognised by its first argument."""
    return bool(function.args.args) and function.args.args[0].arg == "module"


@each_file
def test_the_loop_fits_on_a_screen(path: Path) -> None:
    if module_of(path) == "engine":
        (generate,) = [function for function in functions_of(parse(path)) if function.name == "generate"]
        assert (generate.end_lineno or 0) - generate.lineno + 1 <= 45


@each_file
def test_everything_public_is_documented(path: Path) -> None:
    tree = parse(path)
    assert ast.get_docstring(tree), f"{path} does not say what it is for"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path.name}: {node.name} has no docstring"


@each_file
def test_no_shortcuts(path: Path) -> None:
    tree = parse(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            assert caught not in ("everything", "Exception", "BaseException"), f"{path.name}:{node.lineno}: {caught}"
        assert not isinstance(node, ast.Global), f"{path.name}:{node.lineno}: global"
        if isinstance(node, ast.Name):
            assert node.id != "TYPE_CHECKING", f"{path.name}:{node.lineno}: TYPE_CHECKING"
        is_print = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        may_print = module_of(path) in ("cli", "cli_options", "ui.__main__", "bench.report")
        assert may_print or not is_print, f"{path.name}:{node.lineno}: print"
