"""`spam doctor`: whether this installation is fit to work."""

import dataclasses
from typing import TYPE_CHECKING, Any

from spam.progress import Progress

from .command import Command

if TYPE_CHECKING:
    from spam.diagnosis import Finding

__all__ = ["DOCTOR"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _DoctorReport:
    """The findings, worst last to be read first on a terminal."""

    findings: "tuple[Finding, ...]"

    @property
    def is_fit(self) -> bool:
        """Whether nothing failed."""
        return all(finding.status != "FAIL" for finding in self.findings)

    def to_mapping(self) -> dict[str, Any]:
        """Return the values as JSON-ready types."""
        return {"is_fit": self.is_fit, "findings": [dataclasses.asdict(finding) for finding in self.findings]}

    def summary(self) -> str:
        """Write one line per finding, and a second one where there is something to do."""
        lines = []
        for finding in self.findings:
            lines.append(f"{finding.status}  {finding.name}: {finding.detail}")
            if finding.fix:
                lines.append(f"      -> {finding.fix}")
        return "\n".join(lines)


def _work(values: dict[str, Any], progress: Progress) -> _DoctorReport:
    from spam.diagnosis import diagnose

    return _DoctorReport(findings=diagnose())


def _exit_code(report: _DoctorReport) -> int:
    return 0 if report.is_fit else 2


DOCTOR = Command(
    name="doctor",
    does="Check the installation. Packages, GPU, neighbour search, encoder weights, Hub token, disk.",
    example="spam doctor",
    options=(),
    work=_work,
    exit_code=_exit_code,
)
