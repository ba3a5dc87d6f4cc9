"""`python -m benchmarks [NAME…]`: ours beside peers and the physical limit, as ratios of one run."""
