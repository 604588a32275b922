"""A staged directory -> whether the program that will load it finds what it expects. What cannot be checked is said."""
