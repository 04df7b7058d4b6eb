"""The demonstration behind `nec demo`: what ships, used as a consumer and a producer would, with a report."""

from nec.demo.run import Options, run_demo

__all__ = ["Options", "run_demo"]
