"""Contract suites, entries and fault scripts for tests of Ganglion and of backends for it.

`ganglion.testing.contract` needs pytest; a third party's backend passes it by subclassing `BackendContract`.
"""
