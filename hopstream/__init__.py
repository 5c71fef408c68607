"""hopstream: what should this user see next, over event streams."""
