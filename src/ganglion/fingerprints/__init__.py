"""Digests of functions and values with all code that they lead to: while they are equal, so is what is computed.

`canonical` digests values and `code` follows functions, classes and modules, part by part; `origins` tells code of the
project, which is read, from installed code, which counts with its version. `whole` makes one digest of all parts.
"""

from ganglion.fingerprints.canonical import ImportPath, NoDigestError
from ganglion.fingerprints.code import UNKNOWN, CodeWalk
from ganglion.fingerprints.origins import ganglion_version, project_folders
from ganglion.fingerprints.whole import digest_code, digest_parts

__all__ = [
    "UNKNOWN",
    "CodeWalk",
    "ImportPath",
    "NoDigestError",
    "digest_code",
    "digest_parts",
    "ganglion_version",
    "project_folders",
]
