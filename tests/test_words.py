"""One vocabulary, the field's: what people search for is what code, messages and documentation say."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import alexnet

SRC = Path(alexnet.__file__).parent
ROOT = SRC.parent.parent

PROSE = {
    r"it may be": "must be",
    r"go(es|ing)? on (from|with)|gone on|went on from": "resume, continue, start from",
    r"means? of the weights|averaged weights": "EMA of the weights",
    r"largest gradient|length of the gradient": "gradient clipping, max_grad_norm",
    r"mirror(s|ed|ing)?": "flip",
    r"shares? of": "fraction of",
    r"whole numbers?": "integer",
    r"(?<!learning )rates? of (the )?(weights|biases|layers)": "learning rate of",
    r"(of|over|across|its|all) maps": "feature maps, channels",
    r"(?<!fully )(?<!locally )connected layers?": "fully connected layers",
    r"unit deviation|(?<!standard )deviation of each channel": "standard deviation",
    r"of the [\w-]+'s own": "the X's own",
    r"(are|is) had|what is asked for|made into": "say who does what",
    r"\w*(colour|neighbour|behaviour|favour)\w*": "color, neighbor, behavior, favor",
    r"grey|greyscale|centred?|centres|licen[c]es?|(un)?label(led|ling)|learnt|spelt": "American spelling",
    r"\w*(recogn|normal|initial|optim|quant|discret|organ|minim|maxim)is(e|es|ed|ing|ation)": "-ize, -ization",
}
"""Phrases for which docstrings, comments, messages and documentation have a better one."""
MESSAGES = {
    r"may be": "must be",
    r"sum(?! (to|of))": "checksum",
    r"(?<!feature )maps": "feature maps, channels",
}
"""The same for the messages of errors alone."""
NAMES = {
    **dict.fromkeys(("found", "said", "say", "whole", "made", "taken"), "what it holds"),
    "share": "fraction",
    "place": "path, position, location",
    "sum": "checksum, total",
}
"""Names of variables, parameters and functions that could mean anything."""


def phrases(table: dict[str, str], text: str, line: int, flags: int = re.IGNORECASE) -> Iterator[tuple[int, str, str]]:
    for pattern, better in table.items():
        for match in re.finditer(rf"(?<![\w-])(?:{pattern})(?![\w-])", text, flags):
            yield line + text[: match.start()].count("\n"), match[0], better


def constant_text(node: ast.AST) -> str:
    """A string or f-string, with {} for what is filled in; otherwise empty."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(constant_text(each) or "{}" for each in node.values)
    return ""


def names_defined(node: ast.AST) -> str | None:
    match node:
        case ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return name
        case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
            return name
    return None


def findings_in_python(source: str) -> Iterator[tuple[int, str, str]]:
    """Line, word, and a better one."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and (text := constant_text(node.value)):  # a docstring, also of a field
            yield from phrases(PROSE, text, node.lineno)
            if text.lstrip().startswith("Of "):
                yield node.lineno, text.strip()[:30], "say what it is or does first"
        elif isinstance(node, (ast.Raise, ast.Call)):
            is_message = isinstance(node, ast.Raise) or called_name(node) in ("print", "warn", "notify", "Finding")
            for each in ast.walk(node) if is_message else ():
                text = constant_text(each)
                yield from phrases(PROSE, text, each.lineno if text else 0)
                if isinstance(node, ast.Raise):
                    yield from phrases(MESSAGES, text, each.lineno if text else 0)
        if (name := names_defined(node)) in NAMES:
            yield node.lineno, name, NAMES[name]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield from phrases(PROSE, token.string, token.start[0])


def called_name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def findings_in_markdown(source: str) -> Iterator[tuple[int, str, str]]:
    def blanked(match: re.Match) -> str:
        return re.sub(r"[^\n]", " ", match[0])

    prose = re.sub(r"^```.*?^```|`[^`]*`|^ {4}.*?$", blanked, source, flags=re.DOTALL | re.MULTILINE)
    yield from phrases(PROSE, prose, 1)


def findings(path: Path) -> list[str]:
    source = path.read_text(encoding="utf-8")
    found_by = findings_in_python if path.suffix == ".py" else findings_in_markdown
    return [f"{name(path)}:{line}: {word!r}; better: {better}" for line, word, better in sorted(set(found_by(source)))]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


FILES = sorted(
    [*SRC.rglob("*.py"), *(path for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")] if path.exists())]
)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_the_words_are_the_fields(path):
    listed = findings(path)
    assert not listed, "\n".join(["", *listed])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('def f():\n    """Of the machine, bytes."""', (2, "Of the machine, bytes.", "say what it is or does first")),
        ('raise ValueError(f"lr is {lr}; it may be above 0")', (1, "it may be", "must be")),
        ('raise ValueError(f"{lr} may be above 0")', (1, "may be", "must be")),
        ('console.print("the share of dead units")', (1, "share of", "fraction of")),
        ("x = 1  # a mirrored image", (1, "mirrored", "flip")),
        ("found = 1", (1, "found", "what it holds")),
        ("def f(share): pass", (1, "share", "fraction")),
    ],
)
def test_the_check_finds_what_it_is_for(source, expected):
    assert expected in set(findings_in_python(source))


@pytest.mark.parametrize(
    "source",
    [
        'raise ValueError(f"lr must be > 0, got {lr}")',
        'FORMER = {"mirror": "flip"}',
        '"""Images share one crop; the file may be compressed; the running mean of batch norm."""',
        'raise ValueError(f"weights must sum to 1, got {total}")',
        "total = sum(values)",
    ],
)
def test_the_check_finds_nothing_else(source):
    assert not set(findings_in_python(source))


def test_code_in_documentation_is_left_alone():
    source = "`mirror` is now\n\n    --mirror\n\n```\nmirror\n```\nflip, the mirror of it\n"
    assert [line for line, _, _ in findings_in_markdown(source)] == [8]
