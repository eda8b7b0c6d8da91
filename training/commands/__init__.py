"""The commands of the slow loop, a file a group; `solemate.py` puts them together."""
