"""No hot statement reads more than it needs, however much is stored."""
