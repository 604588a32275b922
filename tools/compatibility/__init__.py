"""With which releases of other programs this works: found out by running it with them."""
