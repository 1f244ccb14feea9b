"""Training of the project's own small models, reached through ``spec-engine train``."""
