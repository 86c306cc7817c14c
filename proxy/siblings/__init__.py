"""What the workers of one proxy are to each other: channels to the supervisor, parts of limits, a count of clients.

Nothing here is on the way of a statement: workers share nothing there.
"""
