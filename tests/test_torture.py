"The short form of `make torture`: all hostile files, and some damaged ones."

import pytest
from hostile_files import hostile
from torture import torture


def test_hostile_files_are_many():
    cases = hostile()
    assert len(cases) >= 150 and len({(reader, name) for reader, name, _ in cases}) == len(cases)


@pytest.mark.slow
def test_no_file_runs_code_ends_the_interpreter_or_goes_unnamed():
    ends, failures, _, _ = torture(mutated=500)
    assert failures == []
    assert ends.total() == len(hostile()) + 500
