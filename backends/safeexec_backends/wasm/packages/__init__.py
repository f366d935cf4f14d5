"""`Policy(packages=…)`: which wheels they are, where they come from, what is in them, and the image that has them."""
