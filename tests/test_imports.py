"""Who may import whom. The rooms of the house, and the libraries that only one of them knows."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "iris_cli"
FILES = sorted(PACKAGE.rglob("*.py"))

# From the command down to the data. A file imports from its own layer and those below it; commands import inside their
# functions. `open_run` (what a person typed becomes a run) lies below the stages, because one of them makes runs.
LAYERS = (
    ("cli", "__main__"),
    ("commands",),
    ("sweep",),
    ("pipeline",),
    ("plan",),
    ("stages",),
    ("play",),
    ("open_run",),
    ("history",),
    ("run",),
    ("failures",),
    ("card", "checkpoints", "device", "digests", "evaluations", "latest", "progress"),
    ("agents",),
    ("learn",),
    ("replay",),
)
# Beside the layers: each of these imports nothing but what stands here; the names without an entry import anything.
LEAVES: dict[str, set[str]] = {
    "aliases": set(),
    "errors": {"aliases"},
    "version": set(),
    "files": set(),
    "interrupts": set(),
    "launch": set(),
    "invocation": {"launch"},
    "machine": set(),
    "metrics": set(),
    "report": set(),
    "published": set(),
    "plots": {"errors", "files"},
    "profiling": {"errors", "files"},
    "config": {"errors", "object_store"},
    "console": {"aliases", "report"},
    "object_store": {"console", "errors", "files"},
    "working_copy": {"aliases", "errors", "object_store"},
    "render": {"errors", "files", "formats"},
    "formats": {"errors"},
    "hub": {"errors"},
    "loggers": {"config", "errors", "files", "metrics"},
    "html_report": {"errors"},
    "envs": {"errors"},
    "nn": {"errors"},
}
# What a layer may use besides the layers below it.
BESIDES = {
    "cli": LEAVES.keys(),
    "commands": LEAVES.keys(),
    "__main__": set(),
    "sweep": LEAVES.keys(),
    "pipeline": LEAVES.keys(),
    "plan": LEAVES.keys(),
    "stages": LEAVES.keys(),
    "open_run": {"config", "console", "envs", "errors", "launch", "loggers", "nn", "object_store", "report"},
    "history": {"files", "invocation", "machine", "metrics", "version"},
    "play": {"console", "envs", "errors", "interrupts", "render"},
    "run": {"config", "envs", "errors", "files", "object_store", "version", "working_copy"},
    "card": {"config", "errors", "object_store"},
    "failures": {"errors", "files"},
    "checkpoints": {"errors", "files"},
    "device": {"errors"},
    "digests": set(),
    "evaluations": {"envs", "errors"},
    "latest": {"errors"},
    "progress": set(),
    "agents": {"errors", "nn"},
    "learn": {"errors", "nn"},
    "replay": {"errors", "files", "object_store", "version"},
}
# Library -> where it may be imported, as prefixes of paths.
HOMES = {
    "click": ("cli.py", "commands/"),
    "rich": ("console.py",),
    "zarr": ("replay/arrays.py", "replay/settled.py"),
    "obstore": ("object_store.py",),
    "gymnasium": ("envs/",),
    "ale_py": ("envs/",),
    "crafter": ("envs/crafter.py",),
    "yaml": ("config.py",),
    "imageio": ("render.py",),
    "imageio_ffmpeg": ("formats/video.py",),
    "minari": ("formats/minari.py",),
    "h5py": ("formats/minari.py",),
    "huggingface_hub": ("hub.py",),
    "matplotlib": ("plots.py",),
    "ray": ("sweep/on_ray.py",),
    "aiohttp": ("play/server.py",),
    "PIL": ("render.py", "envs/"),
    "wandb": ("loggers/wandb.py",),
    "trackio": ("loggers/trackio.py",),
}
TORCHLESS = (
    "envs/",
    "formats/",
    "digests.py",
    "evaluations.py",
    "latest.py",
    "html_report/",
    "invocation.py",
    "metrics.py",
    "object_store.py",
    "plots.py",
    "replay/attributes.py",
    "replay/dataset.py",
    "replay/lock.py",
    "sweep/process.py",
    "console.py",
    "config.py",
)


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room_of(path: Path) -> str:
    """The folder of the package that a file lies in, or its own name."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> set[str]:
    """Full names of everything a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            inside = node.module in ("iris_cli", "iris_cli.stages", "iris_cli.agents.iris")
            found |= {f"{node.module}.{alias.name}" for alias in node.names} if inside else {str(node.module)}
    return found


def rooms_imported(path: Path) -> set[str]:
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("iris_cli.")}
    return ours - {"VERSION"}


def layer_of(room: str) -> int:
    return next(index for index, rooms in enumerate(LAYERS) if room in rooms)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_imports_only_from_below(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":  # the public names, imported when they are used
        return
    if room in LEAVES:
        allowed = LEAVES[room] | {room}
    else:
        below = {name for rooms in LAYERS[layer_of(room) + 1 :] for name in rooms}
        allowed = below | set(LAYERS[layer_of(room)]) | set(BESIDES[room])

    assert rooms_imported(path) <= allowed


def test_every_room_has_its_place() -> None:
    rooms = {room_of(path) for path in FILES} - {"__init__"}

    assert rooms == set(LEAVES) | {room for layer in LAYERS for room in layer}


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_known_in_one_place(library: str) -> None:
    users = {name_of(path) for path in FILES if library in {name.split(".")[0] for name in imports(path)}}

    assert users
    assert all(user.startswith(HOMES[library]) for user in users), users


def test_nn_knows_torch_and_no_other_computing() -> None:
    standard = {
        "collections",
        "contextlib",
        "copy",
        "datetime",
        "itertools",
        "math",
        "pathlib",
        "pickle",
        "typing",
        "dataclasses",
        "functools",
        "zipfile",
    }
    for path in FILES:
        if room_of(path) == "nn":
            libraries = {name.split(".")[0] for name in imports(path)}
            assert libraries <= {"torch", "safetensors", "iris_cli", "warnings"} | standard, path


def test_environments_and_storage_know_no_torch() -> None:
    for path in FILES:
        if name_of(path).startswith(TORCHLESS):
            assert not any(name.split(".")[0] == "torch" for name in imports(path)), path


def test_an_agent_never_imports_another() -> None:
    agents = [path for path in (PACKAGE / "agents").iterdir() if path.is_dir() and path.name != "__pycache__"]
    for agent in agents:
        for path in agent.rglob("*.py"):
            others = {name.split(".")[2] for name in imports(path) if name.startswith("iris_cli.agents.")} - {
                agent.name
            }
            assert not others, path


def test_what_the_agents_share_names_none_of_them() -> None:
    for room in ("learn", "nn", "replay", "envs"):
        for path in (PACKAGE / room).glob("*.py"):
            assert not any(name.startswith("iris_cli.agents") for name in imports(path)), path


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_the_console_prints(path: Path) -> None:
    if path.name == "console.py":
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        calls = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        streams = isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr")
        prints = calls or streams
        assert not prints, f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_stand_at_the_top(path: Path) -> None:
    """But in commands, for the quick help, and where a reason is given in a comment beside them."""
    if name_of(path) in ("cli.py", "__init__.py") or name_of(path).startswith("commands/"):
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.FunctionDef):
            late = [inner for inner in ast.walk(node) if isinstance(inner, ast.Import | ast.ImportFrom)]
            reasons = "".join(line for line in lines[node.lineno : late[0].lineno] if "#" in line) if late else ""
            assert not late or reasons, f"{path}:{late[0].lineno}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
