"""ARCHITECTURE.md shows the tree as it is: one line for each module, from the module's own docstring.

After adding or renaming a module: `python tests/test_architecture.py` writes the tree anew.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
DOCUMENT = REPOSITORY / "ARCHITECTURE.md"
BEGIN, END = "<!-- tree -->\n```\n", "```\n<!-- /tree -->\n"
ORDER = (
    *("core", "artifacts", "metadata", "fingerprints", "execution", "backends", "testing"),
    *("data", "training", "serving", "workflow", "pipelines", "export", "cli"),
)
WIDTH = 150


def first_sentence(file: Path) -> str:
    text = (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n\n")[0]
    return " ".join(text.split())


def lines(folder: Path, depth: int) -> Iterator[str]:
    def line(name: str, file: Path, indent: int) -> str:
        return f"{'  ' * indent + name:<31} {first_sentence(file)}"[:WIDTH].rstrip() + "\n"

    yield line(f"{folder.name}/", folder / "__init__.py", depth)
    for file in sorted(folder.glob("*.py")):
        if file.name != "__init__.py":
            yield line(file.name, file, depth + 1)
    inner = [entry for entry in folder.iterdir() if (entry / "__init__.py").is_file()]
    for entry in sorted(inner, key=lambda entry: (ORDER.index(entry.name) if depth == 0 else 0, entry.name)):
        yield from lines(entry, depth + 1)


def tree() -> str:
    return "".join(lines(REPOSITORY / "src" / "ganglion", 0))


def parts() -> tuple[str, str, str]:
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    shown, _, after = rest.partition(END)
    return before, shown, after


def test_the_tree_is_the_one_that_is_there():
    assert parts()[1] == tree(), "run `python tests/test_architecture.py` to write it anew"


def test_every_module_says_what_it_is_for():
    assert [line for line in tree().splitlines() if len(line.split(maxsplit=1)) < 2] == []


def test_no_module_is_past_500_lines():
    long = {
        str(file.relative_to(REPOSITORY)): count
        for file in (REPOSITORY / "src").rglob("*.py")
        if (count := len(file.read_text().splitlines())) > 500
    }
    assert long == {}


if __name__ == "__main__":
    before, _, after = parts()
    DOCUMENT.write_text(before + BEGIN + tree() + END + after)
    sys.exit()
