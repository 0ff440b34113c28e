"""The number of cases of the fuzz tests, and what became of them.

A test takes `fuzz` and gives it a function of a random generator, which makes an input and passes it to
the library:

    def test_records(fuzz, tmp_path):
        def case(rng):
            file.write_bytes(mutate_bytes(rng, VALID))
            read_records(file)

        fuzz(case)

`pytest tests/fuzz --fuzz-cases=N` (`make fuzz`) runs N cases in total, spread over those tests.
"""

import pytest
from contract import run_cases

FAST_CASES = 25
"""The cases of each test where `--fuzz-cases` is not given."""

TOTALS = pytest.StashKey[dict]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items, config):
    """Without `--fuzz-cases`, these tests are slow ones."""
    if config.getoption("--fuzz-cases") is None:
        for item in items:
            if "fuzz_cases" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.slow)


@pytest.fixture
def fuzz_cases(request):
    """The number of cases of this test: its share of `--fuzz-cases`, or `FAST_CASES`."""
    total = request.config.getoption("--fuzz-cases")
    if total is None:
        return FAST_CASES
    tests = sum("fuzz_cases" in getattr(item, "fixturenames", ()) for item in request.session.items)
    return -(-total // tests)


@pytest.fixture
def fuzz(fuzz_cases, request):
    """Runs the cases of a test and fails if one of them ended against the contract."""

    def run(case, share=1.0):
        """Runs `case(rng)` for the seeds from 0; `share` is below 1 for cases that take long."""
        outcomes = run_cases(case, max(1, round(share * fuzz_cases)))
        request.config.stash.setdefault(TOTALS, {})[request.node.name] = outcomes
        assert not outcomes.broken, f"\n{outcomes.text()}"

    return run


def pytest_terminal_summary(terminalreporter, config):
    totals = config.stash.get(TOTALS, {})
    if not totals or config.getoption("--fuzz-cases") is None:
        return
    terminalreporter.section("fuzzed inputs")
    results = refused = broken = 0
    for name, outcomes in totals.items():
        wrong = sum(outcomes.broken.values())
        results, refused, broken = results + outcomes.results, refused + outcomes.refused, broken + wrong
        terminalreporter.line(
            f"{outcomes.results:6} results {outcomes.refused:6} refused {wrong:6} broken  {name}"
        )
    terminalreporter.line(f"{results:6} results {refused:6} refused {broken:6} broken  in total")
