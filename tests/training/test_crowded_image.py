"""A run with one crowded image: the other batches do not pay for it, and no step is traced anew."""

import json

import pytest
from processes import finish, start_program


@pytest.mark.slow
def test_the_length_follows_the_batch_and_the_step_is_not_traced_anew(config_file, tmp_path):
    process = start_program("crowded_program.py", str(config_file), str(tmp_path / "run"))
    (code, out, err), *_ = finish(process)
    assert code == 0, err
    found = json.loads(out.splitlines()[-1])
    # The image lies in two of the four batches. A replica's part is as long as the whole batch.
    assert sorted(found["lengths"]) == [[8, 8], [8, 8], [100, 100], [100, 100]]
    assert found["traced_before"][0] == 0 < found["traced_before"][1]
    assert found["traced_before"][1:] == [found["traced"]] * 3
