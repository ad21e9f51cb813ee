"""Nets: a zoo of small ones, and how any net is read (trace), cut (shrink) and shared by its smaller sizes (nested)."""
