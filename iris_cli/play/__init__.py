"""A person in a world: the real game or a dream of it, at the keyboard. `stages/play.py` opens it.

How it is built, from the inside out:

    keys.py       held keys -> one of the game's actions; scripts of keys, a line per press
    worlds.py     the dream, with step, save and restore; the real game is envs/rewindable.py
    moment.py     what one step showed, and the films that a line of moments makes
    session.py    one person in one world: act, hand over, rewind, branch, record. No web, no threads, no clock
    ledger.py     a person's play becomes data
    protocol.py   the messages of the page: orders in, moments out, each checked
    server.py     the page, its socket and the clock of each session; the only file that knows aiohttp
    page/         HTML, canvas and JavaScript, as they are: no build, nothing from elsewhere

The server decides everything; the page draws what it is told and sends keys. A session's torch work runs in a thread
of its own, one call at a time, so that the event loop answers whatever a world is thinking about. Going back is exact:
every few steps the worlds are saved whole (the emulator's state, the dynamics' cache, the generator's state), and a
moment between two saves is reached by taking the same actions again.
"""
