"""Layers that are given one and the same tensor, as queries, keys and values are: their moments are collected once."""

from __future__ import annotations

from collections import Counter

from torch import Tensor, nn

from edgecompress.models import Call

UNKNOWN = -1
"""Version of a tensor that keeps none."""


class Twins:
    """Which Linear layers are given what the one before them was: ``of`` says whose moments are theirs."""

    def __init__(self) -> None:
        self.of: dict[str, str] = {}
        self.calls: Counter[str] = Counter()
        self.broken: set[str] = set()
        self.latest: tuple[str, Tensor, int] | None = None

    def shares(self, call: Call) -> bool:
        """Note a call; is it one of a layer that has the moments of another?"""
        if type(call.layer) is not nn.Linear:
            return call.name in self.of
        given, first = call.given, not self.calls[call.name]
        self.calls[call.name] += 1
        leader = self._leader(given)
        if leader is None:
            leader, self.latest = call.name, (call.name, given, _version(given))
        if first and leader != call.name:
            self.of[call.name] = leader
        if self.of.get(call.name, leader) != leader:
            self.broken.add(call.name)
        return call.name in self.of

    def alike(self, name: str) -> bool:
        """Was a layer given what its twin was, every time?"""
        return name not in self.broken and self.calls[name] == self.calls[self.of[name]]

    def _leader(self, given: Tensor) -> str | None:
        if self.latest is None:
            return None
        name, tensor, version = self.latest
        return name if tensor is given and version == _version(given) != UNKNOWN else None


def _version(tensor: Tensor) -> int:
    """How often a tensor was changed in place."""
    return UNKNOWN if tensor.is_inference() else tensor._version
