"""The English of code and documents: what no linter knows.

codespell checks the spelling, and ruff the form and mood of docstrings (D401), but ruff accepts a noun.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("gqabench", "conf", "attention_impls", "harness", "reports", "results")
TEXT_FOLDERS = (*PACKAGES, "docs", "operations", "tests")
TEXT_SUFFIXES = {".py", ".md", ".yaml", ".html", ".j2", ".css", ".js", ".cpp", ".h"}

PHRASES = {
    r"\bheld (?:\S+ ){0,3}against\b|\bholds? (?:\S+ ){1,3}against\b": "checked against, compared with",
    r"\bf(?:ound|inds?) out\b": "detected, determined",
    r"\bc[oa]me by\b": "obtained",
    r"\bfor want of\b": "out of, for lack of",
    r"\bmend(?:s|ed|ing)?\b": "fix",
    r"\blest\b": "so that ... not",
    r"\bone behind another\b": "consecutive, concatenated",
    r"\bsees? to it\b": "ensures",
    r"\bnot to be had\b|\bcan be had\b": "available",
    r"\bgo(?:es)? on with it\b": "resume, continue",
    r"\btells? of\b": "describe, report",
}
"""What the project does not write, and what it writes instead."""


VERBS = """
Accept Add Adjust Align Allocate Allow Analyse Answer Append Apply Ask Assert Assign Attend Attribute
Begin Bind Bring Build Bundle Calculate Call Capture Check Choose Claim Classify Clear Close Collect
Combine Compare Compile Complete Compose Compute Concatenate Connect Construct Continue Convert Copy Count
Cover Create Cut Decide Declare Decode Define Delete Dequantise Derive Describe Detect Determine Discard
Display Divide Do Draw Drop Empty End Ensure Enter Escape Estimate Evaluate Examine Exit Expand Explain
Export Extend Extract Fail Fetch Fill Filter Find Finish Fit Fix Flag Flatten Flush Fold Follow Forget
Format Free Gather Generate Get Give Go Group Guard Handle Hash Have Hide Hold Import Infer Initialise
Insert Inspect Install Interrupt Invert Join Judge Keep Kill Label Launch Leave Let Lift Limit Link List
Load Lock Look Lower Make Map Mark Match Measure Merge Move Name Normalise Note Observe Open Order Pad
Parse Pass Pick Place Plan Plot Poll Prepare Print Probe Publish Put Quantise Quote Raise Rank Read Record
Reduce Refuse Register Reject Release Remove Rename Render Repeat Replace Report Request Require Reset
Reshape Resolve Restore Return Rewind Rotate Round Run Sample Save Say Search See Select Send Serialise
Serve Set Show Shuffle Signal Simulate Skip Sleep Sort Split Spread Start Stop Store Strip Subtract Sum
Summarise Swap Switch Sync Take Tell Test Thin Time Transform Try Turn Undo Unpack Update Use Validate
Verify Wait Wake Walk Warn Watch Weight Wrap Write Yield
"""
"""Words that may begin the docstring of a public function. A verb that is missing is added here."""


def python_files() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def text_files() -> Iterator[Path]:
    """Yield all texts of the project but this one, which spells out what it forbids."""
    yield from (path for path in sorted(ROOT.iterdir()) if path.suffix in {".md", ".toml"})
    yield ROOT / "Makefile"
    for folder in TEXT_FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            is_generated = "baselines" in path.parts or "runs" in path.parts
            if path.suffix in TEXT_SUFFIXES and path != Path(__file__).resolve() and not is_generated:
                yield path


def public_functions(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield public functions and methods, but no properties, which are nouns, and no nested functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from public_functions(child)
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) and not child.name.startswith("_"):
            is_property = any("property" in ast.unparse(decorator) for decorator in child.decorator_list)
            yield from [] if is_property else [child]


def nouns_in(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the first words of each docstring that does not begin with a verb."""
    verbs = frozenset(VERBS.split())
    for function in public_functions(ast.parse(source)):
        words = (ast.get_docstring(function) or "").split()
        if words and (words[0].rstrip(",") not in verbs or words[1:2] == ["of"]):
            yield function.lineno, " ".join(words[:6])


def phrases_in(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the proposal for each phrase, also where a comment breaks it into two lines."""
    flowing = re.sub(r"\n[ \t]*(?:#+:? ?|// ?|[>*-] )?", lambda gap: "\n" + " " * (len(gap[0]) - 1), text)
    for phrase, instead in PHRASES.items():
        spaced = phrase.replace(" ", r"\s+")
        for found in re.finditer(spaced, flowing, re.IGNORECASE):
            line = flowing.count("\n", 0, found.start()) + 1
            yield line, f"`{' '.join(found[0].split())}`: write {instead}"


def test_docstrings_of_public_functions_begin_with_a_verb() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {words} ..."
        for path in python_files()
        for line, words in nouns_in(path.read_text(encoding="utf-8"))
    ]
    assert not wrong, "\n".join(["begin with a verb of VERBS in tests/test_language.py:", *wrong])


def test_texts_use_the_words_of_the_field() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {advice}"
        for path in text_files()
        for line, advice in phrases_in(path.read_text(encoding="utf-8"))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("docstring", "is_wrong"),
    [
        ("Return the median.", False),
        ("Compute, then store.", False),
        ("The median of all samples.", True),
        ("Bytes of the cache.", True),
        ("`[B, G, K]`: the keys.", True),
        ("What went wrong.", True),
        ("Measure of a change.", True),
        ("Returns the median.", True),
    ],
)
def test_a_docstring_that_begins_with_no_verb_is_found(docstring: str, is_wrong: bool) -> None:
    source = f'class Public:\n    def method(self):\n        """{docstring}"""\n'
    assert [line for line, _ in nouns_in(source)] == ([2] if is_wrong else [])


def test_properties_and_private_functions_may_be_nouns() -> None:
    source = '@property\ndef size(self):\n    """The size."""\n\ndef _of():\n    """The part."""\n'
    assert not list(nouns_in(source))


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("Outputs are checked against a reference.", []),
        ("an output\nis held against a reference", [2]),
        ("# An output is held\n# against a reference.", [1]),
        ("hold an output against its reference", [1]),
        ("A lock is held: it guards against others.", []),
        ("killed for want of memory; mend it", [1, 1]),
        ("recommendation, amended", []),
    ],
)
def test_a_phrase_is_found_across_lines(text: str, lines: list[int]) -> None:
    assert [line for line, _ in phrases_in(text)] == lines
