"""What stands around a notebook while it runs: how it ended, what it wrote, what it took, what a terminal shows."""
