"""`hopstream demo`: the whole engine on one machine, on real data, measured while it works."""

from hopstream.demo.report import DemoReport
from hopstream.demo.run import DemoOptions, run_demo

__all__ = ["DemoOptions", "DemoReport", "run_demo"]
