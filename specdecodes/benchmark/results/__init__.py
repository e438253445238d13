"""What is left of a run: samples as they finish, the summary, intervals, comparisons, tables."""
