"""Few cases hold every value, or every pair of values, that all cases hold."""

from itertools import combinations, product

import pytest

from tests.covering import covering

ALL = [{"method": m, "shape": s, "metric": w} for m, s, w in product("abcd", (1, 2, 3), (None, True, False))]
SOME = [case for case in ALL if (case["method"], case["shape"]) != ("a", 1)]


@pytest.mark.parametrize("cases", [ALL, SOME], ids=["all", "some"])
@pytest.mark.parametrize(("strength", "most"), [(1, 5), (2, 15), (3, 36)])
def test_all_combinations_occur_in_few_cases(cases, strength, most):
    def held(indices):
        pairs = [sorted(cases[i].items(), key=lambda pair: pair[0]) for i in indices]
        return {some for values in pairs for some in combinations(values, strength)}

    chosen = covering(cases, strength)
    assert held(chosen) == held(range(len(cases)))
    assert len(chosen) <= min(most, len(cases))
