"""How the tables came to be what they are; Alembic runs the steps in `versions` in order."""
