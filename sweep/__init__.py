"""The only package that knows the others: grid, recipe, data, training, launch, command line."""
