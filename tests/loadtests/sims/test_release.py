"""The simulator of releases computes what the gateway's own classes do."""

import numpy as np
import pytest

from gateway.governance.evidence import STAKES, Comparison, mixed
from loadtests.sims.release import wealth


def test_the_vectorised_wealth_is_that_of_a_comparison():
    rng = np.random.default_rng(1)
    k0, k1 = rng.poisson(0.3, 60), rng.poisson(0.2, 60)
    comparison = Comparison()
    for stable, candidate in zip(k0, k1, strict=True):
        for _ in range(stable):
            comparison.record(candidate=False, share=0.2)
        for _ in range(candidate):
            comparison.record(candidate=True, share=0.2)
    last = [float(bet[-1]) for bet in wealth(k0, k1, 0.2)]
    assert last == pytest.approx(comparison.wealth)
    assert mixed(last, STAKES) == pytest.approx(comparison.value())
