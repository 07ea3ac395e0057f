"""How many replicas a load needs: a pure function of options, what was observed, and time.

The rules are those of Knative's pod autoscaler (knative.dev/docs/serving/autoscaling): the average load of a stable
window, over the target of one replica and rounded up, is the number of replicas. When the load of the short panic
window needs twice what is ready, that one decides, and nothing is taken away until a stable window has passed without
such a moment. Fewer replicas have to be enough for a delay; the last one goes after a grace. Two things differ.
The panic window is always averaged with exponentially falling weights (an option there), so that a load is followed
within a second or two; and nothing is taken away before a whole stable window has been observed.
"""

from __future__ import annotations

import math

import msgspec

from ganglion.serving.options import ServingOptions

PANIC_THRESHOLD = 2.0
"""Times the ready replicas that the panic window has to need."""

MAX_SCALE_UP_RATE = 10.0
"""Times the ready replicas that are wanted at most; the next look may want more."""

MAX_SCALE_DOWN_RATE = 2.0
"""One part in so many of the ready replicas is kept at least; the next look may keep fewer."""

_OUTSIDE = 1e-4
"""Weight that falling weights leave to what is older than their window."""

_NOISE = 1e-9
"""Replicas by which a sum of floating-point numbers may be off."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """What was observed in a span of time.

    Attributes:
        start: monotonic seconds.
        end: monotonic seconds.
        load: average over the span, over all replicas, in the unit of the target.
        requests: that arrived or were in hand; zero means that nobody asked.
    """

    start: float
    end: float
    load: float
    requests: int


class ScaleState(msgspec.Struct, frozen=True, kw_only=True):
    """What the autoscaler remembers of one version.

    Attributes:
        began: start of the first sample; `None` before it.
        samples: of the last stable window, oldest first.
        active: end of the last sample in which somebody asked.
        panic_until: monotonic seconds at which panic ends; `None` while there is none.
        most: replicas wanted at most during the panic.
        decisions: when how many were wanted, within the delay of scaling down.
    """

    began: float | None = None
    samples: tuple[Sample, ...] = ()
    active: float = -math.inf
    panic_until: float | None = None
    most: int = 0
    decisions: tuple[tuple[float, int], ...] = ()


def observe(options: ServingOptions, state: ScaleState, sample: Sample) -> ScaleState:
    """Remember a sample; samples come in the order of their ends."""
    oldest = sample.end - options.stable_window
    return msgspec.structs.replace(
        state,
        began=sample.start if state.began is None else state.began,
        samples=(*(one for one in state.samples if one.end > oldest), sample),
        active=sample.end if sample.requests else state.active,
    )


def decide(
    options: ServingOptions, state: ScaleState, *, now: float, ready: int, current: int, ceiling: int
) -> tuple[ScaleState, int]:
    """How many replicas are wanted.

    Args:
        options: bounds, target and windows.
        state: what was observed and decided before.
        now: monotonic seconds.
        ready: replicas that can take requests.
        current: replicas that were wanted last.
        ceiling: most replicas that there can be, beside `max_replicas`.

    Returns:
        The new state and the number, within the bounds.
    """
    base = max(1, ready)
    stable = _needed(_average(state.samples, now, options.stable_window), options.target)
    panic = _needed(_recent(state.samples, now, options.panic_window), options.target)
    most = math.ceil(MAX_SCALE_UP_RATE * base)
    stable, panic = min(max(stable, math.floor(ready / MAX_SCALE_DOWN_RATE)), most), min(panic, most)
    until = state.panic_until
    if panic >= PANIC_THRESHOLD * base:
        until = now + options.stable_window
    elif until is not None and now >= until:
        until = None
    wanted = max(stable, panic, state.most) if until is not None else stable
    panicked = wanted if until is not None else 0
    if state.began is None or now - state.began < options.stable_window:
        wanted = max(wanted, current)
    wanted = _last_one(options, state, now, current, wanted)
    wanted = _within(options, wanted, ceiling)
    decisions = (*(one for one in state.decisions if one[0] > now - options.scale_down_delay), (now, wanted))
    wanted = _within(options, max(count for _at, count in decisions), ceiling)
    return msgspec.structs.replace(state, panic_until=until, most=panicked, decisions=decisions), wanted


def _last_one(options: ServingOptions, state: ScaleState, now: float, current: int, wanted: int) -> int:
    """The first replica comes when somebody asks; the last goes when nobody has for the window and the grace."""
    asked = bool(state.samples) and state.samples[-1].requests > 0
    if current == 0:
        return max(1, wanted) if asked else 0
    since = max(state.active, now if state.began is None else state.began)
    quiet = now - since >= options.stable_window + options.scale_to_zero_grace
    return wanted if quiet else max(1, wanted)


def _within(options: ServingOptions, wanted: int, ceiling: int) -> int:
    highest = min(options.max_replicas or ceiling, ceiling)
    return max(options.min_replicas, min(wanted, highest))


def _needed(load: float, target: float) -> int:
    """Replicas that a load needs; none only for no load."""
    return max(1, math.ceil(load / target - _NOISE)) if load > 0.0 else 0


def _average(samples: tuple[Sample, ...], now: float, window: float) -> float:
    """Mean load over the window, as far as it was observed."""
    total = seconds = 0.0
    for sample in samples:
        span = sample.end - max(sample.start, now - window)
        if span > 0.0:
            total += span * sample.load
            seconds += span
    return total / seconds if seconds else 0.0


def _recent(samples: tuple[Sample, ...], now: float, window: float) -> float:
    """Mean load with weights that fall exponentially with age; the window holds nearly all of the weight."""
    fall = math.log(1.0 / _OUTSIDE) / window
    total = weights = 0.0
    for sample in samples:
        weight = math.exp(-fall * max(0.0, now - sample.end)) - math.exp(-fall * max(0.0, now - sample.start))
        if now - sample.end < window:
            total += weight * sample.load
            weights += weight
    return total / weights if weights else 0.0
