"""The doctor: would this board do well, and if not, what to type. One check a small function; nothing is changed."""
