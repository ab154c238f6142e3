"""What README shows is there: commands, options, pictures, keys, conventions."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from unittest.mock import Mock

import pytest
import typer

import napari_mrsr
from napari_mrsr import cli
from napari_mrsr.evaluation import CONVENTIONS
from napari_mrsr.zoo import WEIGHTS, score_table
from napari_mrsr.zoo.cards import read_card

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.M | re.S)
PROSE = re.sub(r"^```.*?^```", "", README, flags=re.M | re.S)
WORDS = re.findall(r"`([^`\n]+)`", PROSE)
SHELL = [line.split("  #")[0].strip() for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
COMMANDS = [line for line in SHELL if line.startswith("napari-mrsr ")]
ROOT_COMMAND = typer.main.get_command(cli.app)


def parse(words):
    """Parse a command line to its end, and run nothing."""
    command, context = ROOT_COMMAND, None
    while hasattr(command, "resolve_command"):
        context = command.make_context(command.name, list(words), parent=context)
        words = [*getattr(context, "_protected_args", []), *context.args]
        if not words:
            break
        _, command, words = command.resolve_command(context, words)
    else:
        command.make_context(command.name, list(words), parent=context)


def options(command=ROOT_COMMAND):
    for parameter in command.params:
        yield from (*parameter.opts, *parameter.secondary_opts)
    for child in getattr(command, "commands", {}).values():
        yield from options(child)


@pytest.mark.parametrize("line", COMMANDS)
def test_command_lines_parse(line):
    parse(shlex.split(line)[1:])


@pytest.mark.parametrize(
    "line", ["degrade", "run a.nii.gz", "run a.nii.gz -o b.nii.gz --sharper", "models sow x", "compare a.nii.gz b.nii.gz --axis"]
)
def test_wrong_command_lines_would_be_found(line):
    with pytest.raises(Exception, match=r"(?i)missing|no such|requires an argument"):
        parse(line.split())


def test_every_command_is_shown():
    shown = {line.split()[1] for line in [*COMMANDS, *(w for w in WORDS if w.startswith("napari-mrsr "))]}
    assert shown == set(ROOT_COMMAND.commands)


def test_options_in_the_text_exist():
    scripts = {word: re.match(r"python (tests/\S+\.py)", word) for word in WORDS}
    named = {option for word in WORDS if not scripts[word] for option in re.findall(r"(?<!\S)--[a-z-]+", word)}
    assert named
    assert named <= {*options(), "--help"}
    for word, script in scripts.items():
        known = re.findall(r'"(--[a-z-]+)"', (ROOT / script[1]).read_text(encoding="utf-8")) if script else []
        assert not script or set(re.findall(r"(?<!\S)--[a-z-]+", word)) <= set(known), word


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = {line.split()[1] for line in [*SHELL, *WORDS] if line.startswith("make ")}
    assert named
    assert named <= targets


def test_links_and_pictures_exist():
    linked = [target for target in re.findall(r"\]\(([^)#]+)\)", README) if not target.startswith("http")]
    assert linked
    assert [target for target in linked if not (ROOT / target).exists()] == []
    shown = {target for target in linked if target.endswith(".png")}
    assert shown == {str(p.relative_to(ROOT).as_posix()) for p in (ROOT / "resources" / "screenshots").glob("*.png")}


def test_python_runs_on_what_is_there():
    trees = [ast.parse(text) for kind, text in BLOCKS if kind == "python"]
    names = {n.attr for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Attribute) and getattr(n.value, "id", "") == "mrsr"}
    assert names
    assert [name for name in names if not hasattr(napari_mrsr, name)] == []


def test_conventions_are_all_explained():
    table = re.findall(r"^\| `([\w-]+)` \|", README.split("### Conventions")[1].split("\n#")[0], re.M)
    assert table == list(CONVENTIONS)


def test_scores_are_those_of_the_cards():
    cards = [read_card(path) for path in sorted(WEIGHTS.glob("*.json"))]
    assert f"\n\n{score_table(cards)}\n\n" in README
    listed = re.findall(r"^\| `([\w-]+)` \|", README.split("## Models\n")[1].split("\n**")[0].split("Every model")[0], re.M)
    assert listed[: len(cards)] == [card.name for card in cards]


def key_table():
    """Rows of the table of keys: two pairs of key and meaning on each line."""
    section = README.split("### Keys and mouse of Compare")[1].split("\n#")[0]
    lines = [line.strip("|\n ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    cells = [cell.strip() for line in lines for cell in line]
    return [(key.strip("` "), text) for key, text in zip(cells[::2], cells[1::2], strict=True) if key]


def test_keys_are_those_of_compare():
    pytest.importorskip("qtpy.QtWidgets")
    from napari_mrsr.gui.compare.actions import HELD, MOUSE, actions

    found = [(action.key, action.tip) for action in actions(Mock(), Mock(), Mock(), Mock()).values()]
    assert key_table() == [*found, *HELD, *MOUSE]
