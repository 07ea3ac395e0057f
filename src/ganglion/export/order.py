"""What a container is told to do: one step of one run of a pipeline."""

from __future__ import annotations

import msgspec


class StepOrder(msgspec.Struct, frozen=True, kw_only=True):
    """One step, with where the results are that it needs.

    Attributes:
        pipeline: `module:name`; the image holds the module.
        step: name of the step.
        run: id of the run: the folder on the volume that the result goes to.
        parameters: overrides of the pipeline's parameters, as `key=value`.
        inputs: for each step that this one needs, the run that holds its result: this run, or an earlier one whose
            result is used again.
        urls: for each service that this step needs, where it answers.
        seed: of the run.
        limit: number of records to take from each source; `None` for all.
        retries: failed attempts so far.
    """

    pipeline: str
    step: str
    run: str
    parameters: tuple[str, ...] = ()
    inputs: dict[str, str] = {}
    urls: dict[str, str] = {}
    seed: int = 0
    limit: int | None = None
    retries: int = 0
