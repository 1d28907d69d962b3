"""README and docs/ say what is so: commands work, links lead somewhere, generated pages are current."""

from __future__ import annotations

import doctest
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser

from gqabench.attention_impls import list_impls
from gqabench.attention_impls.registry import BUILT_IN_IMPLS
from gqabench.harness.cases.keys import register_keys
from gqabench.harness.cli.commands import COMMANDS, LISTINGS
from gqabench.harness.sweep.overrides import hydra_arguments
from gqabench.harness.sweep.sweeper import expand_axes

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md")))
}
README = PAGES["README.md"]
GENERATED = ("columns.md", "implementations.md", "keys.md")
MAX_README_WORDS = 900

COMMAND_LINE = re.compile(
    r"^(?:    |      - run: )(?:\w+=\w+ )*(?:\.venv/bin/)?(gqabench [a-z].*)$", re.MULTILINE
)
COMMAND_LINES = list(
    dict.fromkeys(
        tuple(shlex.split(line, comments=True))
        for text in PAGES.values()
        for line in COMMAND_LINE.findall(text)
    )
)
SWEEPS = [list(line[2:]) for line in COMMAND_LINES if line[1] == "sweep"]
OTHERS = [line for line in COMMAND_LINES if line[1] != "sweep"]


def test_the_readme_is_two_screens() -> None:
    assert len(README.split()) < MAX_README_WORDS


def test_the_two_commands_stand_first_and_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    clone, first, second = [line.split()[:2] for line in README.splitlines() if line.startswith("    ")][:3]
    assert (clone, first, second) == (["git", "clone"], ["make", "sweep"], ["make", "test"])
    assert all(f"\n{target}:" in makefile for target in ("sweep", "test", "docs"))


def test_every_command_exists_and_is_shown() -> None:
    named = {command for text in PAGES.values() for command in re.findall(r"`gqabench ([a-z]+)", text)}
    assert named <= set(COMMANDS)
    assert {line[1] for line in COMMAND_LINES} == set(COMMANDS)
    assert set(re.findall(r"^## (\w+)$", PAGES["docs/commands.md"], re.MULTILINE)) == set(COMMANDS)
    assert "gqabench list " + "|".join(LISTINGS) in PAGES["docs/commands.md"]


@pytest.mark.parametrize("arguments", SWEEPS, ids=" ".join)
def test_every_sweep_composes(arguments: list[str]) -> None:
    register_keys()
    overrides = [argument for argument in hydra_arguments(arguments) if not argument.startswith("-")]
    parsed = OverridesParser.create().parse_overrides(overrides)
    has_axes = any(override.is_sweep_override() for override in parsed)
    assert has_axes <= ("-m" in arguments or any(part.startswith("study=") for part in arguments))
    with initialize_config_module("gqabench.conf", version_base="1.3"):
        for point in expand_axes(parsed):
            config = compose("sweep", overrides=list(point))
            assert {name for impl in config.impls for name in listed_names(impl, config.environments)} <= set(
                list_impls()
            )


def listed_names(impl: str, environments: dict[str, object]) -> list[str]:
    """Return the names in an arm that the registry has to know: no file, no plug-in of an example."""
    name = impl.partition(":")[2] if impl.partition(":")[0] in environments else impl
    return [part for part in name.split("+") if ".py:" not in part and part != "my_decode"]


@pytest.mark.parametrize("line", OTHERS, ids=" ".join)
def test_every_option_of_another_command_exists(
    line: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    _, command, *arguments = line
    subcommand = arguments[:1] if command == "baseline" else []
    with pytest.raises(SystemExit) as ended:
        import_module(COMMANDS[command][0]).main([*subcommand, "--help"])
    assert ended.value.code == 0
    options = [argument for argument in arguments if argument.startswith("-")]
    told = capsys.readouterr().out
    assert [option for option in options if not re.search(rf"{option}\b", told)] == []


def test_every_implementation_is_described() -> None:
    described = re.findall(r"^\| \[`(\w+)`\]", PAGES["docs/implementations.md"], re.MULTILINE)
    assert sorted(described) == sorted(BUILT_IN_IMPLS)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    targets = [target for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]) if "://" not in target]
    assert [target for target in targets if not leads_somewhere(page, target)] == []


def leads_somewhere(page: str, target: str) -> bool:
    """Whether a relative link names a file, and a heading of it where it has an anchor."""
    path, _, anchor = target.partition("#")
    file = ((ROOT / page).parent / path) if path else ROOT / page
    if not file.exists() or not anchor:
        return file.exists()
    headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [path.name for path in sorted(DOCS.glob("*.md"))])
def test_every_page_is_in_the_index_and_begins_with_what_it_gives(page: str) -> None:
    heading, *paragraphs = re.sub(r"<!--.*?-->\n+", "", PAGES[f"docs/{page}"]).strip().split("\n\n")
    assert heading.startswith("# ")
    assert paragraphs[0]
    assert not paragraphs[0].startswith(("#", "|", "!", "```"))
    assert page == "README.md" or f"]({page})" in PAGES["docs/README.md"]


def test_the_example_in_python_compiles() -> None:
    examples = doctest.DocTestParser().get_examples(README)
    assert examples
    for example in examples:
        compile(example.source, "README.md", "single")


def test_generated_pages_are_current(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(DOCS / "generate"), str(tmp_path)], check=True, timeout=300, cwd=ROOT)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(GENERATED)
    stale = [
        name for name in GENERATED if (tmp_path / name).read_text(encoding="utf-8") != PAGES[f"docs/{name}"]
    ]
    assert stale == [], "run make docs, and commit what it writes"
