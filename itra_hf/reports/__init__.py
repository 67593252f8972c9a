"""What alignment did to the features."""
