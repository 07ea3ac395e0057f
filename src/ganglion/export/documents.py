"""Manifests as YAML for people: nested manifests as blocks, nothing by reference, no line broken."""

from __future__ import annotations

from typing import Any

from ganglion.core.errors import UserError

try:
    import yaml
except ModuleNotFoundError as error:
    raise UserError("Writing manifests needs PyYAML: pip install 'ganglion[kubernetes]'.") from error


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML has no types
    """Writes text of several lines as a block."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write what occurs twice twice."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def to_yaml(*manifests: dict[str, Any]) -> str:
    """The manifests as YAML documents."""
    text: str = yaml.dump_all(manifests, Dumper=_Dumper, sort_keys=False, width=10**6, allow_unicode=True)
    return text
