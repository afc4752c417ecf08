"""Cohorts with known truth, written as lab files."""

from .cohort import SimulationReport, simulate
from .files import write_manifest, write_section
from .section import SimulatedSection, simulate_section

__all__ = [
    "SimulatedSection",
    "SimulationReport",
    "simulate",
    "simulate_section",
    "write_manifest",
    "write_section",
]
