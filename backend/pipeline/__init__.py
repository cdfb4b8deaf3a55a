"""Recipes, stages, engines and the values that flow between them."""
