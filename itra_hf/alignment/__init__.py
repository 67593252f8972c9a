"""The matching loss over processes, its weight, and what a run remembers of them."""
