"What to run first: each waiting claim counts once, and runs come by claims a second."

import numpy as np
import pandas as pd
import pytest

import erc.report.order as order
from erc.report.claims import read_claims
from erc.runs.recipes import find_system


def test_every_testable_claim_waits_once_where_nothing_was_run(tmp_path):
    waiting = order._claims_waiting(tmp_path)
    assert sum(waiting.values()) == pytest.approx(sum(not claim.why for claim in read_claims()))
    for key in waiting:
        assert key.variant in find_system(key.system_id).variants


def test_runs_come_by_claims_a_second_and_unknown_ones_last(monkeypatch):
    claims = {'a:x@c': 1.0, 'b:x@c': 3.0, 'c:x@c': 9.0}
    monkeypatch.setattr(order, '_claims_waiting', lambda home: claims)
    seconds = {'none:x@c': 1.0, 'a:x@c': 5.0, 'b:x@c': 30.0, 'c:x@c': np.nan}
    plan = pd.DataFrame({'seconds': seconds})
    found = order._in_order(plan)
    assert found.index.tolist() == ['a:x@c', 'b:x@c', 'none:x@c', 'c:x@c']
    assert found.claims.tolist() == [1.0, 3.0, 0.0, 9.0]
