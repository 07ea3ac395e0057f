from __future__ import annotations

from command_line import CLASSES, CommandLine


def test_list_has_versions_aliases_and_what_cannot_be_used(shop: CommandLine) -> None:
    (model,) = shop.json("models", "list")
    assert (model["model"], model["aliases"]) == ("lights", {"champion": 1})
    assert [(version["version"], version["aliases"]) for version in model["versions"]] == [(2, []), (1, ["champion"])]
    assert model["versions"][0]["metrics"] == {"accuracy": 0.9}
    assert model["versions"][0]["size"] == (shop.home / "models" / "lights" / "2" / "model.onnx").stat().st_size
    assert model["problems"].keys() == {"3"}
    assert "half written" in model["problems"]["3"]
    shown = shop("models").stdout
    assert "champion = 1" in shown
    assert "lights version 3 cannot be used" in shown
    assert shop.json("models", "show", "lights") == model


def test_show_of_a_version_has_signature_and_classes(shop: CommandLine) -> None:
    version = shop.json("models", "show", "lights:champion")
    assert (version["version"], version["runtime"], tuple(version["classes"])) == (1, "onnx", CLASSES)
    assert version["signature"]["inputs"] == [{"name": "pixels", "dtype": "uint8", "shape": [-1, 2, 2]}]
    assert "pixels uint8 (-1, 2, 2)" in shop("models", "show", "lights:1").stdout


def test_what_is_not_published_is_refused_with_the_nearest(shop: CommandLine) -> None:
    assert "Did you mean 'lights'?" in shop.error("models", "show", "light")
    assert "Did you mean 'champion'?" in shop.error("models", "show", "lights:champoin")
    assert "half written" in shop.error("models", "show", "lights:3")
    assert "Allowed: 1, 2" in shop.error("models", "show", "lights:4")
