"""Full-precision targets that do not fit: weights streamed through a small memory."""
