"""Compression: models whose weights become integers, block by block, calibrated on text, with a report."""
