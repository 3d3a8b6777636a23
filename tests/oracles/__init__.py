"""Independent references: plain float64 NumPy loops that share no code with the packages under test."""
