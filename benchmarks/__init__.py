"""Measurements of time, memory and traffic. A package of its own, because opacus installs another one named `benchmarks`."""
