"""What is measured: evidence producers, figures, the report, and the command line."""
