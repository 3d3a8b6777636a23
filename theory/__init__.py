"""What is predicted: exact results, laws for attention variants, and the registry of claims."""
