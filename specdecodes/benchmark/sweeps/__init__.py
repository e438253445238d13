"""Many settings measured one after another: a grid, a search for the fastest, draft precisions."""
