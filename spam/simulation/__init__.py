"""Simulated cohorts with known truth, and the demonstration (in `spam.simulation.demo`, which imports every room)."""

from .simulated_cohort import SimulatedSection, SimulationReport, simulate, simulate_section

__all__ = ["SimulatedSection", "SimulationReport", "simulate", "simulate_section"]
