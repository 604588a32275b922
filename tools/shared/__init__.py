"""What the makers of all kinds of fixtures share."""
