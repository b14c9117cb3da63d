"""What a look at the database says of it: every check brought about on real databases."""
