"""Policies that choose a replica for a request when it comes, and what they have to know; no clock and no I/O.

They are for replicas whose queues the gateway does not see whole, such as those that other gateways use as well; where
it does, late binding (`gateway.pool`) beats every one of these.

Sources: consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2016) over rendezvous order (Thaler
and Ravishankar, 1998); the power of two choices (Mitzenmacher, 2001) on a peak-sensitive moving average of latency.
Slow start and the ejection of outliers work and are named as in Envoy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from random import Random
from typing import Literal, Protocol, get_args

from ganglion.core.config import Config

Policy = Literal["round-robin", "least-outstanding", "consistent-hash", "power-of-two"]
"""Names of the policies."""

POLICIES: tuple[str, ...] = get_args(Policy)


class BalancingRules(Config, frozen=True, kw_only=True):
    """Numbers of the policies, with Envoy's defaults where it has them.

    Attributes:
        decay: seconds in which an observed latency loses all but a third of its weight.
        bound: times its fair share of what is outstanding that a replica may have by consistent hashing.
        slow_start: seconds within which a new replica comes to its full weight; 0 for at once.
        aggression: 1 lets the weight grow linearly, more lets it grow faster at the beginning.
        least_weight: of a new replica.
        consecutive_errors: after which a replica is ejected.
        ejection_time: seconds of the first ejection; each further one is longer by as much.
        most_ejection_time: seconds of the longest.
        most_ejected: share of the replicas that may be ejected at once.
    """

    decay: float = 10.0
    bound: float = 1.25
    slow_start: float = 5.0
    aggression: float = 1.0
    least_weight: float = 0.1
    consecutive_errors: int = 5
    ejection_time: float = 30.0
    most_ejection_time: float = 300.0
    most_ejected: float = 0.5


class PeakEwma:
    """Moving average of latency that believes a higher value at once and a lower one by and by.

    Args:
        decay: seconds in which an observation loses all but a third of its weight.
    """

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._value = 0.0
        self._at = -math.inf

    def observe(self, seconds: float, now: float) -> None:
        """A request took so long."""
        if seconds >= self._value:
            self._value = seconds
        else:
            weight = math.exp(-(now - self._at) / self._decay)
            self._value = weight * self._value + (1.0 - weight) * seconds
        self._at = now

    def value(self, now: float) -> float:
        """Seconds, fewer the longer nothing was observed, so that what was slow is tried again; 0 before the first."""
        return self._value * math.exp(-(now - self._at) / self._decay) if self._value else 0.0


class Target:
    """A replica as the policies see it.

    Attributes:
        name: its name.
        outstanding: requests that it was given and has not answered, at the last choice.
        latency: of its answers.
        since: seconds at which it was added.
        current: the state of weighted round robin.
        errors: one after the other, up to now.
        ejections: how often it was ejected, less one for each ejection time that it did well since.
        ejected_until: seconds until which it is left out.
    """

    def __init__(self, name: str, rules: BalancingRules, now: float) -> None:
        self.name = name
        self.outstanding = 0
        self.latency = PeakEwma(rules.decay)
        self.since = now
        self.current = 0.0
        self.errors = 0
        self.ejections = 0
        self.ejected_until = -math.inf
        self._rules = rules

    def weight(self, now: float) -> float:
        """1, or less while it is new."""
        rules, age = self._rules, now - self.since
        if age >= rules.slow_start:
            return 1.0
        grown = max(0.0, age / rules.slow_start) ** (1.0 / rules.aggression)
        return float(max(rules.least_weight, grown))


class Choose(Protocol):
    """Chooses one of several replicas, at least one, for a request whose content hashes to `key`."""

    def __call__(self, targets: Sequence[Target], key: int, now: float) -> Target:
        """See above."""
        ...


def round_robin(targets: Sequence[Target], key: int, now: float) -> Target:
    """One after the other; new ones less often (smooth weighted round robin)."""
    weights = [target.weight(now) for target in targets]
    for target, weight in zip(targets, weights, strict=True):
        target.current += weight
    chosen = max(targets, key=lambda target: target.current)
    chosen.current -= sum(weights)
    return chosen


def least_outstanding(targets: Sequence[Target], key: int, now: float) -> Target:
    """The one with the fewest requests in hand for its weight; of equal ones, the one whose turn it is."""
    least = min((target.outstanding + 1) / target.weight(now) for target in targets)
    equal = [target for target in targets if (target.outstanding + 1) / target.weight(now) <= least]
    return round_robin(equal, key, now)


class ConsistentHash:
    """The same content to the same replica, unless that has more in hand than its bounded share.

    Args:
        bound: times the fair share that a replica may have.
    """

    def __init__(self, bound: float) -> None:
        self._bound = bound

    def __call__(self, targets: Sequence[Target], key: int, now: float) -> Target:
        """The first in the key's own order of the replicas that has room."""
        total = sum(target.outstanding for target in targets)
        most = math.ceil(self._bound * (total + 1) / len(targets))
        fitting = [target for target in targets if target.outstanding < most]
        return max(fitting, key=lambda target: _rank(target.name, key))


class PowerOfTwo:
    """The better one of two that are drawn: by latency times what it has in hand.

    Args:
        draw: source of chance.
    """

    def __init__(self, draw: Random) -> None:
        self._draw = draw

    def __call__(self, targets: Sequence[Target], key: int, now: float) -> Target:
        """One nobody knows the latency of costs nothing until it has a request in hand."""
        pair = self._draw.sample(targets, 2) if len(targets) > 1 else targets
        longest = max(target.latency.value(now) for target in targets)

        def cost(target: Target) -> tuple[float, int]:
            latency = target.latency.value(now) or (longest if target.outstanding else 0.0)
            return latency * (target.outstanding + 1) / target.weight(now), target.outstanding

        return min(pair, key=cost)


class Balancer:
    """Keeps what a policy has to know of each replica, and leaves outliers out.

    Args:
        policy: which.
        rules: its numbers.
        draw: source of chance.
    """

    def __init__(self, policy: Policy, rules: BalancingRules | None = None, draw: Random | None = None) -> None:
        self._rules = rules or BalancingRules()
        chance = draw or Random()
        policies: dict[str, Choose] = {
            "round-robin": round_robin,
            "least-outstanding": least_outstanding,
            "consistent-hash": ConsistentHash(self._rules.bound),
            "power-of-two": PowerOfTwo(chance),
        }
        self._choose = policies[policy]
        self._targets: dict[str, Target] = {}
        self._begun = False

    def sync(self, names: Iterable[str], now: float) -> None:
        """These replicas are there now; those that come later than the first ones start slowly."""
        wanted = set(names)
        for gone in self._targets.keys() - wanted:
            del self._targets[gone]
        for name in sorted(wanted - self._targets.keys()):
            self._targets[name] = Target(name, self._rules, now if self._begun else -math.inf)
        self._begun = self._begun or bool(wanted)

    def choose(self, key: int, outstanding: Mapping[str, int], now: float) -> str | None:
        """The replica for a request; `None` where there is none.

        Args:
            key: a hash of what the request holds.
            outstanding: requests that each replica has in hand; others than these are not chosen.
            now: seconds.
        """
        there = [target for target in self._targets.values() if target.name in outstanding]
        for target in there:
            target.outstanding = outstanding[target.name]
        taking = [target for target in there if target.ejected_until <= now] or there
        return self._choose(taking, key, now).name if taking else None

    def ended(self, name: str, now: float, seconds: float | None) -> bool:
        """A replica answered within `seconds`, or failed (`None`); returns whether it is ejected for it."""
        target = self._targets.get(name)
        if target is None:
            return False
        if seconds is None:
            return self._fail(target, now)
        target.errors = 0
        target.latency.observe(seconds, now)
        if target.ejections and now - target.ejected_until >= self._rules.ejection_time:
            target.ejections -= 1
            target.ejected_until = now
        return False

    def ejected(self, now: float) -> list[str]:
        """Replicas that are left out."""
        return [target.name for target in self._targets.values() if target.ejected_until > now]

    def _fail(self, target: Target, now: float) -> bool:
        rules = self._rules
        target.errors += 1
        if target.errors < rules.consecutive_errors or target.ejected_until > now:
            return False
        if len(self.ejected(now)) + 1 > rules.most_ejected * len(self._targets):
            return False
        target.errors = 0
        target.ejections += 1
        target.ejected_until = now + min(rules.most_ejection_time, rules.ejection_time * target.ejections)
        return True


def _rank(name: str, key: int) -> bytes:
    return blake2b(b"%d %b" % (key, name.encode()), digest_size=8).digest()
