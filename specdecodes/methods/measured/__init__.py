"""What this machine and earlier runs showed, kept between runs: plans predict with it."""
