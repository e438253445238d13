"""What of a pipeline lives where: its parts, their bytes and their times, and the plan made of these."""
