"""One client: its messages become plans, its plans become rows."""
