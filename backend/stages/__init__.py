"""One folder a stage, in the order of the recipe. Stages never import each other."""
