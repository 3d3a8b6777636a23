"""What is predicted: exact results on restricted models, and the registry of claims with their judgement."""
