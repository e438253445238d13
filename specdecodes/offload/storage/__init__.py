"""Where weights rest: a checkpoint's files, read in place, and the memory that takes what is read."""
