"""What lives where, and what a round will cost and yield. Pure arithmetic: no tensor, no file, no clock."""
