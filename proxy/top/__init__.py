"""``pgchorus top``: a terminal view of a running proxy, by what its console says.

``source`` asks, ``figures`` makes rates of two answers, ``screen`` shows them; only that needs textual (the extra
``top``).
"""
