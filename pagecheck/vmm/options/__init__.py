"""The command lines of VMMs: which VMM it is, its RAM, and the sockets it answers on."""
