"""What the README shows is what is there."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text()


def test_the_recipe_is_the_one_that_runs():
    recipe = (REPOSITORY / "recipes" / "fashion_mnist.py").read_text()
    assert f"```python\n{recipe}```" in README
    assert len(recipe.splitlines()) <= 80


def test_the_training_is_the_one_that_runs():
    recipe = (REPOSITORY / "recipes" / "one_network.py").read_text()
    assert f"```python\n{recipe}```" in README
    assert len(recipe.splitlines()) <= 27


def test_the_commands_are_targets():
    targets = (REPOSITORY / "Makefile").read_text()
    for command in ("demo", "test"):
        assert f"make {command} " in README
        assert f"\n{command}: " in targets
