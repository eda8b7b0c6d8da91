"""How fast it is: figures and ratios measured in one run, each beside its goal."""
