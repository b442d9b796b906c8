"""What `python -m benchmarks.paper` prints and keeps: the paper's tables beside its own."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.adaptive import pcc_spread, target_gap
from benchmarks.common import SHARED, kept
from benchmarks.comparison_page import filled
from benchmarks.feasibility import feasibility_table

ROOT = Path(__file__).parents[1]


def _facts(neurons: int, guilty: int, named: int, found: int) -> dict[str, object]:
    ways = [(by, limit) for by in ("attribution", "influence") for limit in (2.0, 1.0)]
    told = {"named": named, "guilty": found, "benign": 0}
    return {
        "neurons": neurons,
        "guilty": guilty,
        "benign": 0,
        "found": [{"by": by, "threshold": limit, **told} for by, limit in ways],
    }


def test_what_is_kept_is_not_measured_again(tmp_path: Path) -> None:
    first = kept(tmp_path / "a" / "one.json", lambda: {"accuracy": 0.5})
    again = kept(tmp_path / "a" / "one.json", lambda: pytest.fail("measured again"))
    assert first == again == {"accuracy": 0.5}


def test_a_measurement_that_was_stopped_is_made_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped() -> dict[str, object]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept(tmp_path / "rq4" / "one.json", stopped)
    assert kept(tmp_path / "rq4" / "one.json", lambda: {"accuracy": 0.5}) == {"accuracy": 0.5}
    assert capsys.readouterr().err == "measuring rq4 one\n" * 2


def test_the_feasibility_study_tells_what_a_random_guess_finds() -> None:
    # 2 of 4 guilty neurons are found: 50 %, and by Clopper and Pearson 6.8 to 93.2 %. The second
    # model has no guilty neuron and no share. Named are 10 of 100 neurons and 15 of 50: a random
    # guess finds 10 % and 30 %, 20 % in the mean.
    table = feasibility_table([_facts(100, 4, 10, 2), _facts(50, 0, 15, 0)])
    row = table.splitlines()[2].split(" | ")
    assert row[2:5] == ["90.3 %", "50% (0%, 1 of 2 models)", "2 of 4 (7% to 93%)"]
    assert row[-1] == "20% |"


def test_the_attackers_penalties_are_what_they_say() -> None:
    # The mean of the rows is (5/3, 2, 7/3): rising, as the first two, and unlike the third. So the
    # correlations are 1, 1 and -1, whose standard deviation is the root of 4/3.
    rows = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    assert pcc_spread(rows, rows).item() == pytest.approx((4 / 3) ** 0.5)
    # Of the absolute weights those of class 3 fall and all others rise: its correlation with their
    # mean is -1, theirs with that of the rest is 1.
    weights = torch.tensor([[1.0, 2.0, 3.0], [-1.0, 2.0, -3.0], [1.0, 2.0, 3.0], [3.0, -2.0, 1.0]])
    assert target_gap(rows, weights).item() == pytest.approx(2.0)


def test_the_page_has_every_table_where_nothing_is_kept(tmp_path: Path) -> None:
    page = ROOT / "docs" / "paper.md"
    before = page.read_bytes()
    command = [sys.executable, "-m", "benchmarks.paper", "--print", "--into", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    headings = [line for line in done.stdout.splitlines() if line.startswith("## ")]
    for wanted in (*(f"Table {number}" for number in range(1, 8)), "RQ4", "feasibility study"):
        assert any(wanted in heading for heading in headings), wanted
    assert "| NN1 | shallow | nothing | 34,963 |" in done.stdout
    assert page.read_bytes() == before
    assert not list(tmp_path.iterdir())


def test_tables_of_the_page_of_rivals_are_made_anew_and_the_rest_is_kept() -> None:
    page = "Before.\n\n<!-- table controls -->\n\nold\n\n<!-- end -->\n\nAfter.\n"
    found = filled(page)
    assert found.startswith("Before.\n\n<!-- table controls -->\n\n| control |")
    assert found.endswith("|\n\n<!-- end -->\n\nAfter.\n")
    assert "old" not in found
    assert filled(found) == found


def test_a_page_cannot_have_a_table_that_nothing_makes() -> None:
    with pytest.raises(KeyError, match="elsewhere"):
        filled("<!-- table elsewhere -->\n<!-- end -->\n")


@pytest.mark.skipif(not (SHARED / "zoo").is_dir(), reason="../shared/zoo is not there")
def test_the_page_of_rivals_says_what_is_kept() -> None:
    page = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
    assert filled(page) == page
