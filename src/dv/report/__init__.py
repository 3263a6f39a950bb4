"""Comparison of the runs of a study: run folders → rows → tables, plots and contact sheets."""
