"""Measures the hot paths and prints ratios from one run. Absolute times mean little elsewhere."""
