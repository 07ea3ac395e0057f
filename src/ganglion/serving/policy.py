"""Which versions of a model are served, as TensorFlow Serving names it: the latest, a specific one, or all."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal, get_args

import msgspec

from ganglion.core.errors import UserError, suggest

PolicyName = Literal["latest", "specific", "all"]


class VersionPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What is served of a model when its repository changes.

    Attributes:
        name: `latest` serves the newest complete version, and newer ones as they come; `specific` one version; `all`
            every complete version, of which the newest answers where none is asked for.
        version: the number, for `specific`.
        alias: the alias that is followed in place of a number, for `specific`.
    """

    name: PolicyName = "latest"
    version: int | None = None
    alias: str = ""

    @staticmethod
    def of(version: int | str | None, name: PolicyName | None = None) -> VersionPolicy:
        """What is meant by a version and a policy, of which either may be missing.

        Args:
            version: a number, an alias, or nothing.
            name: of the policy; what the version says where nothing is given.

        Raises:
            UserError: there is no such policy, or both do not go together.
        """
        if name is not None and name not in get_args(PolicyName):
            raise UserError(f"There is no version policy {name!r}. {suggest(str(name), get_args(PolicyName))}")
        meant = name or ("latest" if version is None else "specific")
        if (meant == "specific") != (version is not None):
            given = "no version" if version is None else f"version {version}"
            raise UserError(f"The version policy is {meant} and {given} is given; `specific` and only it names one.")
        if isinstance(version, str):
            return VersionPolicy(name="specific", alias=version)
        return VersionPolicy(name=meant, version=version)

    def wanted(
        self, versions: Collection[int], aliases: Mapping[str, int], refused: Collection[int]
    ) -> tuple[int, ...]:
        """Versions that should be served, the one that should answer last.

        Args:
            versions: complete ones.
            aliases: of the repository.
            refused: those that could not be served or were rolled back, and are not tried by themselves.

        Returns:
            Numbers, ascending; empty where nothing that may be served is there.
        """
        match self.name:
            case "specific":
                version = aliases.get(self.alias) if self.alias else self.version
                chosen = [] if version is None else [version]
            case "latest":
                chosen = sorted(set(versions) - set(refused))[-1:]
            case "all":
                chosen = sorted(versions)
        return tuple(version for version in chosen if version in versions and version not in refused)

    def __str__(self) -> str:
        if self.name != "specific":
            return self.name
        return f"alias {self.alias}" if self.alias else f"version {self.version}"
