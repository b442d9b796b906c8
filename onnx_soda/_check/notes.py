"""What is seen in one file: findings, parts that were understood, and parts that were not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from onnx_soda._errors import SodaError
from onnx_soda._numbers import FileNumbers, GraphDecisions, decisions_table, plain
from onnx_soda._preflight.limits import FileFinding
from onnx_soda._results import Column, Evidence, Finding, Table, Verdict
from onnx_soda._rules import (
    RULE_PICKLE,
    RULE_UNREAD,
    RULES,
    SEVERITIES,
    UNSAFE,
    WEIGHTY,
    Severity,
)

# Findings of one rule, rows of parts, and names of skipped parts that a report has; all are
# counted.
_MOST_OF_A_RULE, _MOST_ROWS, _MOST_NAMES = 20, 1_000, 1_000
# Names in a sentence.
_SHOWN = 10
# Letters of a name in a heading.
_HEADING = 100
NOT_FOR_BACKDOORS = "This looks at the file alone; it does not look for backdoors."


@dataclass(frozen=True)
class Part:
    """Some bytes to look at: a file, or a member of an archive.

    Attributes:
        place: Names of the members that lead to it, with "/" between; "" for the file itself.
        name: Its own name.
        stream: Its bytes; it can be moved back.
        size: Their number.
        depth: Archives that it lies in.
        framework: Whose archive that is: "PyTorch", "Keras", or "".
    """

    place: str
    name: str
    stream: BinaryIO
    size: int
    depth: int = 0
    framework: str = ""

    def head(self, count: int) -> bytes:
        """Return the first bytes, and go back to the start."""
        self.stream.seek(0)
        found = self.stream.read(count)
        self.stream.seek(0)
        return found

    def content(self) -> bytes:
        """Return all bytes."""
        self.stream.seek(0)
        return self.stream.read()

    @property
    def shown(self) -> str:
        """How messages call it."""
        return self.place or self.name


@dataclass
class Notes:
    """Takes in what is seen.

    Attributes:
        findings: What is dangerous or unusual.
        parts: Name, kind and bytes of each part that was understood.
        skipped: Parts of no known kind, with what they seem to be where that can be told.
        understood: Number of parts that were understood.
        passed_over: Number of parts that were not.
        harmless_pickles: Names of pickles that name only what is known to be harmless.
        decisions: What the graphs of ONNX files decide, by the name of the part.
        untold: Sentences about graphs whose decisions were not told.
        nodes_followed: Nodes of the graphs whose decisions were.
    """

    findings: list[Finding] = field(default_factory=list)
    parts: list[tuple[str, str, int]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    understood: int = 0
    passed_over: int = 0
    harmless_pickles: list[str] = field(default_factory=list)
    decisions: dict[str, GraphDecisions] = field(default_factory=dict)
    untold: list[str] = field(default_factory=list)
    nodes_followed: int = 0
    _of_rule: Counter[str] = field(default_factory=Counter)

    def add(self, rule_id: str, message: str, part: Part, severity: Severity | None = None) -> None:
        """Take in a finding; the first ones of a rule are kept."""
        rule = RULES[rule_id]
        self._of_rule[rule_id] += 1
        if self._of_rule[rule_id] > _MOST_OF_A_RULE:
            return
        where = (part.place,) if part.place else ()
        self.findings.append(
            Finding(
                rule_id,
                severity or rule.severity,
                None,
                None,
                None,
                None,
                message,
                where,
                rule.advice,
            )
        )

    def add_error(self, error: SodaError, part: Part) -> None:
        """Take in why a part was refused, or could not be read."""
        rule_id = error.rule_id if error.rule_id in RULES else RULE_UNREAD
        self.add(rule_id or RULE_UNREAD, error.message, part)

    def add_file_finding(self, finding: FileFinding, part: Part) -> None:
        """Take in what the checks of an ONNX file tell."""
        where = f", at {finding.location[:100]!r}" if finding.location else ""
        self.add(finding.rule_id, finding.message + where, part, finding.severity)

    def know(self, part: Part, kind: str) -> None:
        """Take in that a part was understood."""
        self.understood += 1
        if len(self.parts) < _MOST_ROWS:
            self.parts.append((part.shown, kind, part.size))

    def skip(self, part: Part, what: str = "") -> None:
        """Take in that a part is of no kind that is looked into."""
        self.passed_over += 1
        if len(self.skipped) < _MOST_NAMES:
            self.skipped.append(f"{part.shown} ({what})" if what else part.shown)

    def all_findings(self) -> tuple[Finding, ...]:
        """Return the findings, the most severe first, with one for all harmless pickles."""
        found, pickles = list(self.findings), self.harmless_pickles
        if pickles:
            rule, one = RULES[RULE_PICKLE], len(pickles) == 1
            what = f"{pickles[0]} is a Python pickle" if one else f"{len(pickles)} Python pickles"
            message = (
                f"{what}, which {'runs' if one else 'run'} code when loaded, and "
                f"{'names' if one else 'name'} only what tensors, arrays and plain values are "
                "made of"
            )
            where = tuple(pickles[:_MOST_NAMES])
            no = (None, None, None, None)
            found.append(Finding(rule.id, rule.severity, *no, message, where, rule.advice))
        return tuple(sorted(found, key=lambda one: SEVERITIES.index(one.severity)))

    @property
    def verdict(self) -> Verdict:
        """What it comes to."""
        if any(one.rule_id in UNSAFE and one.severity == "high" for one in self.findings):
            return "unsafe"
        return (
            "inconclusive"
            if any(one.severity in WEIGHTY for one in self.findings)
            else ("no finding")
        )

    def reasons(self) -> tuple[str, ...]:
        """Say what it comes to, and what was not looked at."""
        weighty = [one for one in self.findings if one.severity in WEIGHTY]
        said = [one.message for one in weighty] or ["Nothing in it is known to be dangerous."]
        for rule_id, count in self._of_rule.items():
            if count > _MOST_OF_A_RULE:
                said.append(f"{count - _MOST_OF_A_RULE} more findings of {rule_id} are left out.")
        if self.passed_over:
            said.append(self._skipped_text())
        said += map(_scan_says, self._reported()[:_SHOWN])
        said += self.untold[:_SHOWN]
        return (*dict.fromkeys(said), NOT_FOR_BACKDOORS)

    def _skipped_text(self) -> str:
        """Count and name what was skipped inside."""
        more = self.passed_over - len(self.skipped[:_SHOWN])
        shown = ", ".join(self.skipped[:_SHOWN]) + (f" and {more} more" if more else "")
        files = "1 file" if self.passed_over == 1 else f"{self.passed_over} files"
        return f"{files} inside skipped: {shown}."

    def evidence(self) -> Evidence:
        """Return the parts as a table."""
        rows = tuple(self.parts)
        more = self.understood - len(rows)
        table = Table(
            "What is in it",
            f"{more} more are left out." if more else "",
            (Column("part"), Column("kind"), Column("bytes", "count")),
            rows,
        )
        numbers = FileNumbers(
            self.understood, self.passed_over, tuple(self.skipped), self.decisions
        )
        return Evidence(
            "files",
            "The file itself",
            self.verdict,
            tables=(table, *self._decisions()),
            numbers=plain(numbers),
        )

    def _reported(self) -> list[str]:
        """Return the parts whose decisions a scan would report."""
        return [
            part
            for part, told in self.decisions.items()
            if any(one.severity in WEIGHTY for one in told.shown)
        ]

    def _decisions(self) -> Iterator[Table]:
        """Yield a table of decisions for each graph that has some; of many graphs the first."""
        for part, told in list(self.decisions.items())[:_SHOWN]:
            table, where = decisions_table(told, "the input"), f": {part[-_HEADING:]}"
            yield replace(table, title=table.title + ("" if self.understood == 1 else where))


def _scan_says(part: str) -> str:
    return f"A scan would report a decision in the graph of {part} (SODA201 to SODA205)."
