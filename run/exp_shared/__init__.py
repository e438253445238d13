"""One set of weights at two precisions: the lower one drafts, on the same cache."""
