"""What the runs of a study tell, side by side: run folders → rows → tables, plots and contact sheets."""
