"""Evidence that is computed rather than trained: each calculation is a frozen description that yields arrays."""

from theory.calculations.base import Calculation as Calculation
