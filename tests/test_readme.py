"""The README quotes recorded results, and only those."""

from pathlib import Path

import pytest

from tests.benchmarks.tables import lines, numbers

README = (Path(__file__).parent.parent / "README.md").read_text()


@pytest.mark.parametrize("world", ["tiny", "tiny-hard"])
def test_tables_are_those_of_the_recorded_runs(world):
    for line in lines(world):
        assert line in README


def test_the_control_with_shuffled_labels_is_quoted_as_recorded():
    share = numbers("tiny-shuffled")["stage2.risky_correctly_refused.value"]
    assert f"{100 * share:.1f} %" in README


def test_the_commands_of_the_readme_exist():
    makefile = (Path(__file__).parent.parent / "Makefile").read_text()
    for target in ("run", "test", "check", "prove", "bench", "install"):
        assert f"\n{target}: " in makefile


def test_the_times_of_the_deployed_pipeline_are_quoted_as_recorded():
    found = numbers("pipeline")
    for quoted in (
        f"{found['first_seconds'] / 60:.1f} minutes",
        f"reused, {found['again_seconds']:.0f} s",
        f"took {found['further_point_seconds']:.0f} s where the whole warm run took "
        f"{found['warm_hard_seconds']:.0f} s",
    ):
        assert quoted in " ".join(README.split())
