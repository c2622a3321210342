"""Figures of hostd, as ratios to what the same machine does at the same time.

`python -m bench` writes build/bench.json.  Machines are shared and noisy: whatever is compared is
measured in turns, several rounds of it, and medians are taken; the ratios last, the milliseconds
do not.
"""
