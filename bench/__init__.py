"""Figures of hostd, as ratios to other work on the same machine at the same time.

`python -m bench` writes build/bench.json.  Machines are shared and noisy, so what is compared is
measured in turns, in several rounds, and medians are taken: milliseconds differ from run to run,
the ratios hardly.
"""
