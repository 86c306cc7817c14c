"""``workers: N``: one process that starts, watches and asks N others, and serves no client itself.

Theory of operation. ``watch`` makes the sockets (SO_REUSEPORT, one of each worker: the kernel deals connections out),
forks the workers, restarts who dies, and passes on signals. ``asking`` answers what workers want of each other
(cancels, the console) and what machines ask (metrics, health). The event loop here never runs while it forks, and there
are no threads: a fork in the midst of either would copy locks that nobody opens again.

The sockets belong to all: when a worker is away, another one accepts what comes to its sockets.
"""
