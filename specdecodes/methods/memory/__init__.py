"""What of a pipeline lives where: its parts and their bytes, the plan, what other settings would give."""
