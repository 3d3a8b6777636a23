"""The report of a verification: one self-contained HTML file."""

from experiments.report.render import render as render
