"""What the documents say is what the program does: help, README, pipeline files."""

import ast
import importlib
import re
import shlex
from pathlib import Path

import click
import pytest

from iris_cli.cli import cli
from iris_cli.plan import SETTINGS, make_plan

REPOSITORY = Path(__file__).resolve().parent.parent
COMMANDS = sorted(cli.commands)
PIPELINES = sorted((REPOSITORY / "pipelines").glob("*.yaml"))


def lines_of_commands(text: str) -> list[str]:
    """Every command line of ours in a text: `iris ...` alone on a line, after `Example:` or `$`, or in a comment."""
    found = re.findall(r"^[ \t#$>*-]*(?:Example: *)?`?(iris [a-z][^`\n]*)", text, flags=re.MULTILINE)
    return [re.split(r"\s{2,}|\s+#|\s->", line)[0].strip() for line in found]


def parses(line: str) -> None:
    """Parse a command line with its command's own parameters; nothing is carried out."""
    _, name, *arguments = shlex.split(line)
    cli.commands[name].make_context(name, arguments).close()


def help_of(name: str) -> str:
    command = cli.commands[name]
    return command.get_help(click.Context(command, info_name=f"iris {name}"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_sentence_and_an_example_of_itself(name: str) -> None:
    text = cli.commands[name].help or ""

    assert text.strip().splitlines()[0].endswith(".")
    assert f"Example: iris {name}" in text
    assert all(line.startswith(f"iris {name}") for line in lines_of_commands(text))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_of_the_help_parses(name: str) -> None:
    examples = lines_of_commands(cli.commands[name].help or "")

    assert examples
    for line in examples:
        parses(line)


def test_the_commands_of_the_first_page_parse() -> None:
    lines = lines_of_commands(cli.help or "")

    assert len(lines) == 7
    for line in lines:
        parses(line)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_is_for(name: str) -> None:
    options = [parameter for parameter in cli.commands[name].params if isinstance(parameter, click.Option)]

    assert [option.name for option in options if not option.help] == []
    assert "Usage: iris" in help_of(name)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_named_in_the_readme(name: str) -> None:
    assert re.search(rf"\biris {name}\b", (REPOSITORY / "README.md").read_text())


@pytest.mark.parametrize("document", ["README.md", "pipelines/README.md", "data/README.md", "docs/agents.md"])
def test_the_command_lines_of_a_document_parse(document: str) -> None:
    for line in lines_of_commands((REPOSITORY / document).read_text()):
        if shlex.split(line)[1] in cli.commands:
            parses(line)


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.name)
def test_every_pipeline_plans(path: Path) -> None:
    plan = make_plan(path, game="Pong")

    assert plan.stages
    assert {planned.stage for planned in plan.stages} <= SETTINGS.keys()


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.name)
def test_every_pipeline_begins_with_the_command_that_runs_it(path: Path) -> None:
    comment = "\n".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    lines = lines_of_commands(comment)

    assert any(line.startswith(f"iris run pipelines/{path.name}") for line in lines)
    for line in lines:
        parses(line)


def fenced(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (REPOSITORY / document).read_text(), re.MULTILINE | re.DOTALL)


def test_the_pipelines_in_the_documents_plan(tmp_path: Path) -> None:
    texts = fenced("pipelines/README.md", "yaml") + fenced("README.md", "yaml")

    assert texts
    for text in texts:
        (tmp_path / "p.yaml").write_text(text)
        assert make_plan(tmp_path / "p.yaml", game="Pong").stages


def test_the_python_in_the_readme_imports_what_is_there() -> None:
    texts = fenced("README.md", "python")

    assert texts
    for text in texts:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names)


def test_every_stage_and_its_command_share_a_name() -> None:
    assert SETTINGS.keys() <= cli.commands.keys()


def test_every_key_of_a_pipeline_is_explained() -> None:
    text = (REPOSITORY / "pipelines" / "README.md").read_text()

    for key in ("first", "rounds", "round", "then", "every", "from", "until", "settings", "log", *SETTINGS):
        assert re.search(rf"\b{key}\b", text), key
